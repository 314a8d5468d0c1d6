// The encoder's bytes, read back by a decoder of the test's own.
#include "png.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>

#include "pictures.hpp"

namespace graticule::apps {
namespace {

uint32_t number_at(const std::string& bytes, size_t place) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(bytes.at(place + i));
  return value;
}

// Bit by bit, from the definition.
uint32_t crc_of(const std::string& bytes) {
  uint32_t crc = 0xffffffffU;
  for (const char byte : bytes) {
    crc ^= static_cast<uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? crc >> 1 ^ 0xedb88320U : crc >> 1;
  }
  return crc ^ 0xffffffffU;
}

// Chunks by type, each checksum verified.
std::map<std::string, std::string> chunks_of(const std::string& file) {
  EXPECT_EQ(file.substr(0, 8), "\x89PNG\r\n\x1a\n");
  std::map<std::string, std::string> result;
  size_t place = 8;
  while (place < file.size()) {
    const uint32_t size = number_at(file, place);
    const std::string type = file.substr(place + 4, 4);
    EXPECT_EQ(number_at(file, place + 8 + size), crc_of(file.substr(place + 4, size + 4))) << type;
    EXPECT_EQ(result.count(type), 0) << type;
    result[type] = file.substr(place + 8, size);
    place += size + 12;
  }
  return result;
}

// The contents of a zlib stream of stored blocks, its Adler-32 verified.
std::string inflate_stored(const std::string& stream) {
  const auto byte_at = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(stream.at(i))); };
  EXPECT_EQ((byte_at(0) << 8 | byte_at(1)) % 31, 0);
  std::string result;
  size_t place = 2;
  for (bool last = false; !last;) {
    last = byte_at(place) == 1;
    const uint32_t size = byte_at(place + 1) | byte_at(place + 2) << 8;
    EXPECT_EQ(size ^ 0xffff, byte_at(place + 3) | byte_at(place + 4) << 8);
    result += stream.substr(place + 5, size);
    place += 5 + size;
  }
  uint64_t a = 1, b = 0;
  for (const char byte : result) {
    a = (a + static_cast<uint8_t>(byte)) % 65521;
    b = (b + a) % 65521;
  }
  EXPECT_EQ(number_at(stream, place), b << 16 | a);
  EXPECT_EQ(stream.size(), place + 4);
  return result;
}

IndexedImage decode(const std::string& file) {
  const auto chunks = chunks_of(file);
  IndexedImage image;
  const std::string& header = chunks.at("IHDR");
  image.width = number_at(header, 0);
  image.height = number_at(header, 4);
  EXPECT_EQ(header.substr(8), std::string("\x08\x03\x00\x00\x00", 5));
  const std::string& colours = chunks.at("PLTE");
  for (size_t i = 0; i < colours.size(); i += 3) {
    image.palette.push_back(
        {static_cast<uint8_t>(colours[i]), static_cast<uint8_t>(colours[i + 1]), static_cast<uint8_t>(colours[i + 2])});
  }
  const std::string lines = inflate_stored(chunks.at("IDAT"));
  EXPECT_EQ(lines.size(), (image.width + 1) * image.height);
  for (size_t row = 0; row < image.height; ++row) {
    EXPECT_EQ(lines.at(row * (image.width + 1)), '\0');
    const std::string line = lines.substr(row * (image.width + 1) + 1, image.width);
    image.indices.insert(image.indices.end(), line.begin(), line.end());
  }
  EXPECT_TRUE(chunks.at("IEND").empty());
  return image;
}

TEST(Png, DecodesToWhatWasEncoded) {
  // The second is larger than one stored block.
  for (const auto& [width, height] : {std::pair<uint32_t, uint32_t>{3, 2}, {401, 400}, {65534, 1}}) {
    IndexedImage image;
    image.width = width;
    image.height = height;
    for (int i = 0; i < 200; ++i) {
      image.palette.push_back({static_cast<uint8_t>(i), static_cast<uint8_t>(255 - i), static_cast<uint8_t>(7 * i)});
    }
    for (size_t i = 0; i < size_t{width} * height; ++i) image.indices.push_back(static_cast<uint8_t>(i * i % 199));
    const IndexedImage decoded = decode(encode_png(image));
    EXPECT_EQ(decoded.width, width);
    EXPECT_EQ(decoded.height, height);
    EXPECT_EQ(decoded.palette, image.palette);
    EXPECT_EQ(decoded.indices, image.indices);
  }
}

TEST(Png, RefusesSizesThatDoNotFit) {
  EXPECT_THROW(encode_png({0, 1, {{0, 0, 0}}, {}}), std::invalid_argument);
  EXPECT_THROW(encode_png({2, 1, {{0, 0, 0}}, {0}}), std::invalid_argument);
  EXPECT_THROW(encode_png({1, 1, {}, {0}}), std::invalid_argument);
  EXPECT_THROW(encode_png({1, 1, {{0, 0, 0}}, {1}}), std::invalid_argument);
}

TEST(Pictures, EnlargeAndKeepNorthUp) {
  const at::Tensor field = at::tensor({0.0, 1.0, 2.0, 3.0}, at::kDouble).view({2, 2});
  const IndexedImage image = draw(field, 0, 3, ColourMap::sequential);
  EXPECT_EQ(image.width, 720);
  EXPECT_EQ(image.height, 720);
  EXPECT_EQ(image.indices.front(), 0);
  EXPECT_EQ(image.indices[719], 85);
  EXPECT_EQ(image.indices[719 * 720], 170);
  EXPECT_EQ(image.indices.back(), 255);
  EXPECT_EQ(draw(at::zeros({241, 480}), 0, 1, ColourMap::sequential).width, 960);
}

TEST(Pictures, DivergingColoursAreLightestInTheMiddle) {
  const IndexedImage image =
      draw(at::tensor({-2.0, 0.0, 2.0, 9.0}, at::kDouble).view({1, 4}), -2, 2, ColourMap::diverging);
  const size_t factor = image.width / 4;
  EXPECT_EQ(image.indices[0], 0);
  EXPECT_NEAR(image.indices[factor], 127.5, 1);
  EXPECT_EQ(image.indices[2 * factor], 255);
  EXPECT_EQ(image.indices[3 * factor], 255);
  for (const uint8_t channel : image.palette[image.indices[factor]]) EXPECT_GT(channel, 240);
}

TEST(Pictures, AreWrittenForEachKind) {
  const auto folder = std::filesystem::path(::testing::TempDir()) / "graticule_pictures";
  std::filesystem::create_directories(folder);
  const at::Tensor truth = at::arange(12, at::kDouble).view({3, 4});
  const FieldPictures pictures = write_pictures(folder, "u/10 m", truth, truth - 2);
  EXPECT_EQ(pictures.least, 0);
  EXPECT_EQ(pictures.most, 11);
  EXPECT_EQ(pictures.most_error, 2);
  EXPECT_EQ(pictures.error.filename(), "u_10_m_error.png");
  std::ifstream file(pictures.error, std::ios::binary);
  const IndexedImage error = decode({std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()});
  for (const uint8_t index : error.indices) EXPECT_EQ(index, 0);
  std::filesystem::remove_all(folder);
  EXPECT_THROW(write_pictures(folder, "u", truth, truth), std::runtime_error);
}

}  // namespace
}  // namespace graticule::apps
