#include "png.hpp"

#include <algorithm>
#include <stdexcept>
#include <string_view>

namespace graticule::apps {
namespace {

std::string big_endian(uint32_t value) {
  std::string result;
  for (const int shift : {24, 16, 8, 0}) result.push_back(static_cast<char>(value >> shift & 0xff));
  return result;
}

std::string little_endian_16(uint32_t value) {
  return {static_cast<char>(value & 0xff), static_cast<char>(value >> 8 & 0xff)};
}

std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t remainder = byte;
    for (int bit = 0; bit < 8; ++bit) remainder = (remainder >> 1) ^ ((remainder & 1) != 0 ? 0xedb88320U : 0U);
    table[byte] = remainder;
  }
  return table;
}

uint32_t crc32(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = make_crc_table();
  uint32_t remainder = 0xffffffffU;
  for (const char byte : bytes) remainder = table[(remainder ^ static_cast<uint8_t>(byte)) & 0xff] ^ (remainder >> 8);
  return ~remainder;
}

uint32_t adler32(std::string_view bytes) {
  constexpr uint32_t modulus = 65521;
  uint32_t sum = 1, sum_of_sums = 0;
  for (const char byte : bytes) {
    sum = (sum + static_cast<uint8_t>(byte)) % modulus;
    sum_of_sums = (sum_of_sums + sum) % modulus;
  }
  return sum_of_sums << 16 | sum;
}

std::string chunk(const std::string& type, const std::string& data) {
  const std::string checked = type + data;
  return big_endian(static_cast<uint32_t>(data.size())) + checked + big_endian(crc32(checked));
}

std::string stored_zlib(std::string_view bytes) {
  constexpr size_t most_in_block = 65535;
  std::string result = "\x78\x01";
  for (size_t begin = 0; begin < bytes.size(); begin += most_in_block) {
    const std::string_view block = bytes.substr(begin, most_in_block);
    const auto size = static_cast<uint32_t>(block.size());
    result.push_back(begin + size == bytes.size() ? '\x01' : '\x00');
    result += little_endian_16(size) + little_endian_16(~size);
    result += block;
  }
  return result + big_endian(adler32(bytes));
}

// Every row behind a byte that names its filter: none.
std::string scanlines(const IndexedImage& image) {
  std::string result;
  result.reserve((size_t{image.width} + 1) * image.height);
  for (uint32_t row = 0; row < image.height; ++row) {
    result.push_back('\0');
    const auto first = image.indices.begin() + static_cast<std::ptrdiff_t>(size_t{row} * image.width);
    result.append(first, first + image.width);
  }
  return result;
}

void check(const IndexedImage& image) {
  if (image.width == 0 || image.height == 0) throw std::invalid_argument("a PNG needs at least one pixel");
  if (image.indices.size() != size_t{image.width} * image.height) {
    throw std::invalid_argument("a PNG needs an index for each pixel");
  }
  if (image.palette.empty() || image.palette.size() > 256) {
    throw std::invalid_argument("a PNG's palette has 1 to 256 colours");
  }
  if (*std::max_element(image.indices.begin(), image.indices.end()) >= image.palette.size()) {
    throw std::invalid_argument("a PNG's indices must lie in its palette");
  }
}

}  // namespace

std::string encode_png(const IndexedImage& image) {
  check(image);
  std::string colours;
  for (const Colour& colour : image.palette) colours.append(colour.begin(), colour.end());
  // 8 bits a pixel, colour type 3 (palette), deflate, the standard filters, no interlace.
  const std::string header =
      big_endian(image.width) + big_endian(image.height) + std::string("\x08\x03\x00\x00\x00", 5);
  return "\x89PNG\r\n\x1a\n" + chunk("IHDR", header) + chunk("PLTE", colours) +
         chunk("IDAT", stored_zlib(scanlines(image))) + chunk("IEND", "");
}

}  // namespace graticule::apps
