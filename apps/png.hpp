// A small PNG encoder: pictures of up to 256 colours, stored without compression.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace graticule::apps {

using Colour = std::array<uint8_t, 3>;  ///< red, green, blue

struct IndexedImage {
  uint32_t width = 0;
  uint32_t height = 0;
  std::vector<Colour> palette;   ///< 1 to 256 colours
  std::vector<uint8_t> indices;  ///< into the palette, width x height, from the top left, row by row
};

/// The bytes of a PNG file: 8 bits a pixel, palette, no interlace, deflate's stored blocks (PNG specification, third
/// edition; RFC 1950 and 1951). Throws std::invalid_argument where the sizes do not fit.
std::string encode_png(const IndexedImage& image);

}  // namespace graticule::apps
