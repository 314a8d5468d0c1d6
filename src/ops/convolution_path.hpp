// How a cut convolution is computed.
#pragma once

namespace graticule::ops {

/// `in_place`: the local kernel works on the shard as it lies, and rows near the cuts are overwritten from strips of
/// whole windows. `whole_windows`: the local kernel works on a copy of the shard with its halo. `automatic` takes the
/// first where it is possible and the strips are few.
enum class ConvolutionPath { automatic, in_place, whole_windows };

/// For tests: what every convolution of this process takes from now on, where it can. Set it alike on every rank.
void force_convolution_path(ConvolutionPath path);
ConvolutionPath forced_convolution_path();

}  // namespace graticule::ops
