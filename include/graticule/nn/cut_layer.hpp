// What every cut layer shares: its domain and the cut of its input.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "graticule/comm/domain.hpp"
#include "graticule/ops/layers.hpp"

namespace graticule {

/// The domain of every layer that was given none. Not set: such layers are their plain selves. Process-wide.
void set_default_domain(std::optional<comm::Domain> domain);
std::optional<comm::Domain> default_domain();

/// A layer's place: its name, the cut dimension, its domain, and the cuts of the inputs it has seen.
class CutLayer {
 public:
  /// `shard_dim` counts from the end where negative, else in the batched layout (N, C, spatial...). `domain`: nullopt
  /// for the process-wide one.
  CutLayer(std::string layer, int64_t shard_dim, std::optional<comm::Domain> domain);

  [[nodiscard]] int64_t shard_dim() const { return shard_dim_; }
  [[nodiscard]] const std::string& layer_name() const { return layer_; }

  /// Gives the rows of the whole input, cut in balance: the first call then needs no exchange of sizes.
  void set_rows(int64_t rows) { rows_ = rows; }

 protected:
  /// The domain to work over; nullopt where there is none or it has one rank: the layer is its plain self.
  [[nodiscard]] std::optional<comm::Domain> active_domain() const;

  /// t, or nothing where it is undefined, as torch's modules have a missing bias.
  static std::optional<at::Tensor> optional_of(const at::Tensor& t) {
    return t.defined() ? std::optional<at::Tensor>(t) : std::nullopt;
  }

  /// What check mode compares beside the input: a layer's options. It is called there alone.
  using Described = std::function<std::string()>;

  /// Calls `forward` with x and its cut; x without a batch dimension (spatial_dims + 1 dimensions) gets one, and the
  /// result loses it. The first call exchanges the sizes, and the cut is remembered. A number of local rows that is new
  /// exchanges them again, all ranks of the domain must then call with one that is new to them; after that every call
  /// does, since no rank can tell any more by its own rows which cut is meant.
  at::Tensor on_cut(const at::Tensor& x, int64_t spatial_dims, const comm::Domain& domain, const Described& options,
                    const std::function<at::Tensor(const at::Tensor&, const ops::Cut&)>& forward);

  /// The cut of x, whose dimension `dim` (counted from 0) holds this rank's rows. Exchanges sizes as on_cut does.
  ops::Cut cut_of(const at::Tensor& x, int64_t dim, const comm::Domain& domain, const Described& options);

 private:
  struct SeenCut {
    int64_t local_rows;
    std::vector<int64_t> offsets;
  };
  std::vector<int64_t> offsets(int64_t local_rows, const comm::Domain& domain);

  std::string layer_;
  int64_t shard_dim_;
  std::optional<comm::Domain> domain_;
  std::optional<int64_t> rows_;
  // The cuts met in each domain, two at most: how many they are is what every rank knows alike.
  std::map<std::string, std::vector<SeenCut>> seen_;
};

}  // namespace graticule
