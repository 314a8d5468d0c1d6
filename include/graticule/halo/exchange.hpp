// Gather of rows over a domain, and its adjoint, each started and finished separately.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "graticule/comm/domain.hpp"
#include "graticule/comm/exchange.hpp"
#include "graticule/comm/facts.hpp"
#include "graticule/rows/exchange_plan.hpp"

namespace graticule::halo {

/// How a tensor lies: which dimension is cut, and for a pole boundary which one holds the longitudes.
struct Layout {
  int64_t dim = 0;         ///< the cut dimension, not negative
  int64_t lon_dim = -1;    ///< longitudes, needed by the pole boundaries only; their number must be even
  bool flip_sign = false;  ///< values seen across a pole change sign: components of a vector

  friend bool operator==(const Layout&, const Layout&) = default;
};

/// A tensor of one rank's rows, and how it lies.
struct Shard {
  at::Tensor tensor;
  Layout layout;
};

/// Mostly one: no memory is taken for it.
using Shards = c10::SmallVector<Shard, 1>;

/// Gives every rank the rows that the plan says it wants, of one tensor or of several: the rows of all of them that go
/// to one rank are one message. All ranks of the domain must call, with the same plan facts, and as many tensors of the
/// same dtypes and sizes beside the cut dimension.
///
/// `x` holds this rank's own rows, plan.owned().size() of them along layout.dim; any strides; all tensors on one
/// device. The result holds plan.result().size() rows, in x's memory format. Rows travel contiguous, whatever the
/// strides on either side. Throws c10::Error naming `what` for a wrong shape before any message is sent, and within the
/// domain's timeout when a peer fails or disagrees.
class Gather {
 public:
  /// Checks, posts the messages and returns; x must not change before finish(). `facts` tells whatever else the ranks
  /// must agree on, such as the layer's arguments: a message of other facts is an error at its receiver.
  Gather(const at::Tensor& x, std::shared_ptr<const rows::ExchangePlan> plan, Layout layout, const comm::Domain& domain,
         std::string what, const comm::Facts& facts = {});
  /// Of several tensors, at least one.
  Gather(Shards shards, std::shared_ptr<const rows::ExchangePlan> plan, const comm::Domain& domain, std::string what);
  /// The first with the tag of messages of this dtype, sizes and facts, for those who make many such calls.
  Gather(const at::Tensor& x, std::shared_ptr<const rows::ExchangePlan> plan, Layout layout, const comm::Domain& domain,
         std::string what, const comm::MessageTag& tag);
  static comm::MessageTag tag(at::ScalarType dtype, at::IntArrayRef sizes, const rows::ExchangePlan& plan,
                              const Layout& layout, const std::string& what, const comm::Facts& facts = {});
  /// Has the messages move while this thread does other work: to be called where that takes long.
  void keep_moving();
  /// Copies what this rank owns, waits for the rest and returns the result: of a plan of one part.
  at::Tensor finish();
  /// The same for every part of the plan, of one tensor.
  std::vector<at::Tensor> finish_parts();
  /// The same for every tensor, of a plan of one part.
  std::vector<at::Tensor> finish_each();

 private:
  Gather(Shards shards, std::shared_ptr<const rows::ExchangePlan> plan, const comm::Domain& domain, std::string what,
         const comm::MessageTag& tag);
  /// The message's values as they came, where they are a whole part of the only tensor as it must lie.
  [[nodiscard]] std::optional<at::Tensor> as_whole_part(const rows::PeerSegments& peer, const at::Tensor& buffer) const;
  /// Tensor by tensor, part by part.
  std::vector<at::Tensor> finish_all();

  std::shared_ptr<const rows::ExchangePlan> plan_;
  Shards shards_;
  std::vector<at::Tensor> received_;
  comm::PendingExchange pending_;
};

/// The adjoint of Gather, for plans of one part: `g` holds plan.result().size() rows, the result this rank's own rows:
/// the sum of what every rank holds for them, this rank's part first, then the others in ascending order: no result
/// depends on timing. Of several tensors as Gather.
class Fold {
 public:
  Fold(const at::Tensor& g, std::shared_ptr<const rows::ExchangePlan> plan, Layout layout, const comm::Domain& domain,
       std::string what, const comm::Facts& facts = {});
  Fold(Shards shards, std::shared_ptr<const rows::ExchangePlan> plan, const comm::Domain& domain, std::string what,
       const comm::Facts& facts = {});
  at::Tensor finish();
  std::vector<at::Tensor> finish_each();

 private:
  [[nodiscard]] at::Tensor own_part(const Shard& shard) const;

  std::shared_ptr<const rows::ExchangePlan> plan_;
  Shards shards_;
  std::vector<at::Tensor> received_;
  comm::PendingExchange pending_;
};

}  // namespace graticule::halo
