// Fields on the globe's grid as pictures.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>

#include "png.hpp"

namespace graticule::apps {

enum class ColourMap {
  sequential,  ///< dark blue over green to yellow
  diverging    ///< blue over white to red; white is the middle of the range
};

/// Draws (rows, W) with `least` as the first and `most` as the last colour; values beyond are drawn as these. A grid of
/// few columns is enlarged to a width of about 720 pixels. The first row is at the top.
IndexedImage draw(const at::Tensor& field, double least, double most, ColourMap map);

struct FieldPictures {
  std::filesystem::path truth, forecast, error;
  double least = 0, most = 0;  ///< the range of truth and forecast: the truth's
  double most_error = 0;       ///< the error's range is [-most_error, most_error]
};

/// Writes NAME_truth.png, NAME_forecast.png and NAME_error.png (forecast minus truth) into `folder`. Fields of the
/// whole grid, (rows, W). Throws std::runtime_error where a file cannot be written.
FieldPictures write_pictures(const std::filesystem::path& folder, const std::string& name, const at::Tensor& truth,
                             const at::Tensor& forecast);

}  // namespace graticule::apps
