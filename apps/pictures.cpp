#include "pictures.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace graticule::apps {
namespace {

constexpr int64_t wanted_width = 720;
constexpr size_t shades = 256;

// Colours of the maps at equal distances.
const std::vector<Colour> sequential_colours{{68, 1, 84},    {71, 44, 122},  {59, 81, 139},
                                             {44, 113, 142}, {33, 144, 141}, {39, 173, 129},
                                             {92, 200, 99},  {170, 220, 50}, {253, 231, 37}};
const std::vector<Colour> diverging_colours{{5, 48, 97},     {33, 102, 172},  {67, 147, 195},
                                            {146, 197, 222}, {247, 247, 247}, {244, 165, 130},
                                            {214, 96, 77},   {178, 24, 43},   {103, 0, 31}};

std::vector<Colour> palette(const std::vector<Colour>& anchors) {
  std::vector<Colour> result(shades);
  for (size_t shade = 0; shade < shades; ++shade) {
    const double place = static_cast<double>(shade * (anchors.size() - 1)) / (shades - 1);
    const size_t below = std::min(static_cast<size_t>(place), anchors.size() - 2);
    for (size_t i = 0; i < 3; ++i) {
      result[shade][i] = static_cast<uint8_t>(
          std::lround(std::lerp(anchors[below][i], anchors[below + 1][i], place - static_cast<double>(below))));
    }
  }
  return result;
}

std::string file_name(const std::string& name) {
  std::string result = name;
  for (char& c : result) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '-') c = '_';
  }
  return result;
}

std::filesystem::path write(const std::filesystem::path& path, const IndexedImage& image) {
  const std::string bytes = encode_png(image);
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (!file) throw std::runtime_error("cannot write " + path.string());
  return path;
}

}  // namespace

IndexedImage draw(const at::Tensor& field, double least, double most, ColourMap map) {
  TORCH_CHECK_VALUE(field.dim() == 2, "a picture is drawn from (rows, columns), got ", field.sizes());
  const double range = most > least ? most - least : 1;
  const at::Tensor shade = ((field.to(at::kDouble) - least) / range * (shades - 1)).round().clamp(0, shades - 1);
  const int64_t factor =
      std::max<int64_t>(1, std::lround(static_cast<double>(wanted_width) / static_cast<double>(field.size(1))));
  const at::Tensor pixels = shade.to(at::kByte).repeat_interleave(factor, 0).repeat_interleave(factor, 1).contiguous();
  const auto* first = pixels.const_data_ptr<uint8_t>();
  IndexedImage image;
  image.width = static_cast<uint32_t>(pixels.size(1));
  image.height = static_cast<uint32_t>(pixels.size(0));
  image.palette = palette(map == ColourMap::sequential ? sequential_colours : diverging_colours);
  image.indices.assign(first, first + pixels.numel());
  return image;
}

FieldPictures write_pictures(const std::filesystem::path& folder, const std::string& name, const at::Tensor& truth,
                             const at::Tensor& forecast) {
  const at::Tensor error = forecast - truth;
  FieldPictures result;
  result.least = truth.min().item<double>();
  result.most = truth.max().item<double>();
  result.most_error = error.abs().max().item<double>();
  const auto path = [&](const std::string& kind) { return folder / (file_name(name) + "_" + kind + ".png"); };
  result.truth = write(path("truth"), draw(truth, result.least, result.most, ColourMap::sequential));
  result.forecast = write(path("forecast"), draw(forecast, result.least, result.most, ColourMap::sequential));
  result.error = write(path("error"), draw(error, -result.most_error, result.most_error, ColourMap::diverging));
  return result;
}

}  // namespace graticule::apps
