#include "graticule/halo/exchange.hpp"

#include <ATen/ATen.h>

#include <utility>

#include "graticule/halo/memory_format.hpp"
#include "halo/row_copy.hpp"
#include "halo/segment_rows.hpp"

namespace graticule::halo {
namespace {

using rows::ExchangePlan;
using rows::PeerSegments;
using rows::Segment;

std::vector<int64_t> with_rows(at::IntArrayRef sizes, int64_t dim, int64_t count) {
  std::vector<int64_t> result = sizes.vec();
  result[dim] = count;
  return result;
}

bool has_pole(const ExchangePlan& plan) {
  return plan.boundary == rows::Boundary::pole_on_row || plan.boundary == rows::Boundary::pole_between;
}

// Of a tensor of this rank's own rows, or of a result of the plan.
void check(const at::Tensor& t, const Layout& layout, bool is_result, const ExchangePlan& plan,
           const comm::Domain& domain, const std::string& what) {
  TORCH_CHECK(layout.dim >= 0 && layout.dim < t.dim(), what, ": the cut dimension ", layout.dim,
              " is not one of a tensor of ", t.dim(), " dimensions (rank ", domain.rank(), ")");
  TORCH_CHECK(plan.partition.ranks() == domain.size(), what, ": the rows are cut over ", plan.partition.ranks(),
              " ranks, the domain has ", domain.size(), " (rank ", domain.rank(), ")");
  if (has_pole(plan)) {
    TORCH_CHECK(layout.lon_dim >= 0 && layout.lon_dim < t.dim() && layout.lon_dim != layout.dim, what,
                ": a pole boundary needs the dimension of the longitudes, got ", layout.lon_dim, " (rank ",
                domain.rank(), ")");
    TORCH_CHECK(
        t.size(layout.lon_dim) % 2 == 0, what,
        ": a pole boundary needs an even number of longitudes, since half the circle lies across the pole, got ",
        t.size(layout.lon_dim), " (rank ", domain.rank(), ")");
  }
  const int64_t expected_rows = is_result ? plan.result().size() : plan.owned().size();
  if (t.size(layout.dim) != expected_rows) {
    const std::string message = c10::str(what, ": expected ", expected_rows, " rows in dimension ", layout.dim,
                                         " on rank ", domain.rank(), ", got ", t.size(layout.dim));
    comm::poison(domain, message);
    TORCH_CHECK(false, message);
  }
}

comm::Facts plan_facts(const ExchangePlan& plan, const std::string& what, comm::Facts facts, bool adjoint) {
  facts.add(what).add(static_cast<int64_t>(adjoint)).add(plan.partition.offsets());
  for (const rows::Wanted& part : plan.parts) {
    for (const rows::Interval& wanted : part) facts.add(wanted.begin).add(wanted.end);
  }
  return facts.add(static_cast<int64_t>(plan.boundary));
}

comm::Facts with_tensor(comm::Facts facts, at::ScalarType dtype, at::IntArrayRef sizes, const ExchangePlan& plan,
                        const Layout& layout) {
  facts.add(static_cast<int64_t>(dtype));
  if (has_pole(plan)) facts.add(layout.lon_dim).add(static_cast<int64_t>(layout.flip_sign));
  const auto dims = static_cast<int64_t>(sizes.size());
  facts.add(dims).add(layout.dim);
  for (int64_t d = 0; d < dims; ++d) {
    if (d != layout.dim) facts.add(sizes[d]);
  }
  return facts;
}

comm::MessageTag message_tag(const Shards& shards, const ExchangePlan& plan, const std::string& what,
                             const comm::Facts& more, bool adjoint) {
  comm::Facts facts = plan_facts(plan, what, more, adjoint);
  for (const Shard& s : shards) {
    facts = with_tensor(facts, s.tensor.scalar_type(), s.tensor.sizes(), plan, s.layout);
  }
  return {facts.hash()};
}

// Every tensor's values begin at such a byte of a message.
constexpr int64_t alignment = 16;

int64_t aligned(int64_t byte) { return (byte + alignment - 1) / alignment * alignment; }

int64_t bytes_of(const Shard& shard, int64_t rows) {
  return c10::multiply_integers(with_rows(shard.tensor.sizes(), shard.layout.dim, rows)) *
         static_cast<int64_t>(shard.tensor.element_size());
}

int64_t message_bytes(const Shards& shards, int64_t rows) {
  int64_t bytes = 0;
  for (const Shard& shard : shards) bytes = aligned(bytes) + bytes_of(shard, rows);
  return bytes;
}

void check_devices(const Shards& shards, const comm::Domain& domain, const std::string& what) {
  for (const Shard& shard : shards) {
    TORCH_CHECK(shard.tensor.device() == shards[0].tensor.device(), what, ": expected all tensors on ",
                shards[0].tensor.device(), ", got one on ", shard.tensor.device(), " (rank ", domain.rank(), ")");
  }
}

// Whether the rows are taken as they are.
bool is_plain(const Segment& segment) { return segment.step == 1 && !segment.across_pole; }

at::Tensor wanted_rows(const at::Tensor& t, const Segment& segment, const ExchangePlan& plan, int64_t dim) {
  return t.narrow(dim, segment.wanted - plan.result(segment.part).begin, segment.count);
}

at::Tensor owned_rows(const at::Tensor& t, const Segment& segment, const ExchangePlan& plan, int64_t dim) {
  const rows::Interval source = segment.source_rows();
  return t.narrow(dim, source.begin - plan.owned().begin, source.size());
}

// Calls `use` with the number of the tensor, each segment of a message and its rows, tensor by tensor. They lie one
// after the other, each contiguous, with rows in their place among the dimensions.
template <typename Use>
void for_each_segment(const PeerSegments& peer, const at::Tensor& buffer, const Shards& shards, const Use& use) {
  int64_t begin = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const auto& [like, layout] = shards[i];
    begin = aligned(begin);
    int64_t values = begin / static_cast<int64_t>(like.element_size());
    for (const Segment& segment : peer.segments) {
      const at::Tensor rows = comm::payload(buffer, like.scalar_type(),
                                            with_rows(like.sizes(), layout.dim, segment.source_rows().size()), values);
      use(i, segment, rows);
      values += rows.numel();
    }
    begin += bytes_of(shards[i], peer.rows);
  }
}

struct Messages {
  std::vector<comm::Message> sends;
  std::vector<comm::Message> receives;
  std::vector<at::Tensor> received;
};

// One message to each of `to`, packed by `pack`, and room for one from each of `from`.
template <typename Pack>
Messages make_messages(const comm::Domain& domain, const Shards& shards, const comm::MessageTag& tag,
                       const std::vector<PeerSegments>& to, const std::vector<PeerSegments>& from, const Pack& pack) {
  const at::Device device = comm::message_device(domain, shards[0].tensor.device());
  const auto make_buffer = [&](const PeerSegments& peer) {
    return comm::make_buffer(tag, device, at::kByte, {message_bytes(shards, peer.rows)});
  };
  Messages messages;
  messages.receives.reserve(from.size());
  messages.received.reserve(from.size());
  messages.sends.reserve(to.size());
  for (const PeerSegments& peer : from) {
    messages.received.push_back(make_buffer(peer));
    messages.receives.push_back({peer.peer, messages.received.back()});
  }
  for (const PeerSegments& peer : to) {
    at::Tensor buffer = make_buffer(peer);
    for_each_segment(peer, buffer, shards, pack);
    messages.sends.push_back({peer.peer, std::move(buffer)});
  }
  return messages;
}

}  // namespace

Gather::Gather(const at::Tensor& x, std::shared_ptr<const ExchangePlan> plan, Layout layout, const comm::Domain& domain,
               std::string what, const comm::Facts& facts)
    : Gather(x, plan, layout, domain, what, tag(x.scalar_type(), x.sizes(), *plan, layout, what, facts)) {}

Gather::Gather(const at::Tensor& x, std::shared_ptr<const ExchangePlan> plan, Layout layout, const comm::Domain& domain,
               std::string what, const comm::MessageTag& tag)
    : Gather(Shards{{x, layout}}, std::move(plan), domain, std::move(what), tag) {}

Gather::Gather(Shards shards, std::shared_ptr<const ExchangePlan> plan, const comm::Domain& domain, std::string what)
    : Gather(shards, plan, domain, what, message_tag(shards, *plan, what, {}, /*adjoint=*/false)) {}

Gather::Gather(Shards shards, std::shared_ptr<const ExchangePlan> plan, const comm::Domain& domain, std::string what,
               const comm::MessageTag& tag)
    : plan_(std::move(plan)), shards_(std::move(shards)) {
  for (const Shard& shard : shards_) check(shard.tensor, shard.layout, /*is_result=*/false, *plan_, domain, what);
  check_devices(shards_, domain, what);
  Messages messages =
      make_messages(domain, shards_, tag, plan_->sends, plan_->receives,
                    [&](size_t i, const Segment& segment, const at::Tensor& message) {
                      const auto& [x, layout] = shards_[i];
                      const rows::Interval source = segment.source_rows();
                      copy_rows(x, source.begin - plan_->owned().begin, message, 0, source.size(), layout.dim);
                    });
  received_ = std::move(messages.received);
  pending_ = comm::start_exchange(domain, std::move(messages.sends), std::move(messages.receives), std::move(what));
}

comm::MessageTag Gather::tag(at::ScalarType dtype, at::IntArrayRef sizes, const ExchangePlan& plan,
                             const Layout& layout, const std::string& what, const comm::Facts& facts) {
  return {with_tensor(plan_facts(plan, what, facts, /*adjoint=*/false), dtype, sizes, plan, layout).hash()};
}

std::vector<at::Tensor> Gather::finish_all() {
  const size_t parts = plan_->parts.size();
  std::vector<at::Tensor> results(shards_.size() * parts);
  const auto result_of = [&](size_t i, int part) -> const at::Tensor& {
    at::Tensor& result = results[i * parts + part];
    const auto& [x, layout] = shards_[i];
    if (!result.defined()) {
      result = empty_rows(x, layout.dim, plan_->result(part).size());
    }
    return result;
  };
  const auto first_row = [&](const Segment& s) { return s.wanted - plan_->result(s.part).begin; };
  for (size_t i = 0; i < shards_.size(); ++i) {
    const auto& [x, layout] = shards_[i];
    const int64_t dim = layout.dim;
    for (const Segment& segment : plan_->local) {
      const at::Tensor& result = result_of(i, segment.part);
      if (segment.owner < 0) {
        clear_rows(result, first_row(segment), segment.count, dim);
      } else if (is_plain(segment)) {
        copy_rows(x, segment.source - plan_->owned().begin, result, first_row(segment), segment.count, dim);
      } else {
        wanted_rows(result, segment, *plan_, dim).copy_(apply(segment, owned_rows(x, segment, *plan_, dim), layout));
      }
    }
  }
  pending_.wait();
  for (size_t peer = 0; peer < received_.size(); ++peer) {
    if (const auto whole = as_whole_part(plan_->receives[peer], received_[peer])) {
      results[plan_->receives[peer].segments[0].part] = *whole;
      continue;
    }
    for_each_segment(plan_->receives[peer], received_[peer], shards_,
                     [&](size_t i, const Segment& segment, const at::Tensor& message) {
                       const at::Tensor& result = result_of(i, segment.part);
                       const Layout& layout = shards_[i].layout;
                       if (is_plain(segment)) {
                         copy_rows(message, 0, result, first_row(segment), segment.count, layout.dim);
                       } else {
                         wanted_rows(result, segment, *plan_, layout.dim).copy_(apply(segment, message, layout));
                       }
                     });
  }
  for (size_t i = 0; i < shards_.size(); ++i) {
    for (size_t part = 0; part < parts; ++part) result_of(i, static_cast<int>(part));
  }
  return results;
}

std::optional<at::Tensor> Gather::as_whole_part(const PeerSegments& peer, const at::Tensor& buffer) const {
  const Segment& segment = peer.segments[0];
  if (shards_.size() != 1 || peer.segments.size() != 1) return {};
  const auto& [x, layout] = shards_[0];
  if (!is_plain(segment) || segment.count != plan_->result(segment.part).size()) return {};
  if (memory_format(x) != at::MemoryFormat::Contiguous) return {};
  return comm::payload(buffer, x.scalar_type(), with_rows(x.sizes(), layout.dim, segment.count)).to(x.device());
}

void Gather::keep_moving() { pending_.keep_moving(); }

at::Tensor Gather::finish() { return finish_all().front(); }
std::vector<at::Tensor> Gather::finish_parts() { return finish_all(); }
std::vector<at::Tensor> Gather::finish_each() { return finish_all(); }

Fold::Fold(const at::Tensor& g, std::shared_ptr<const ExchangePlan> plan, Layout layout, const comm::Domain& domain,
           std::string what, const comm::Facts& facts)
    : Fold(Shards{{g, layout}}, std::move(plan), domain, std::move(what), facts) {}

Fold::Fold(Shards shards, std::shared_ptr<const ExchangePlan> plan, const comm::Domain& domain, std::string what,
           const comm::Facts& facts)
    : plan_(std::move(plan)), shards_(std::move(shards)) {
  for (const Shard& shard : shards_) check(shard.tensor, shard.layout, /*is_result=*/true, *plan_, domain, what);
  check_devices(shards_, domain, what);
  Messages messages =
      make_messages(domain, shards_, message_tag(shards_, *plan_, what, facts, /*adjoint=*/true), plan_->receives,
                    plan_->sends, [&](size_t i, const Segment& segment, const at::Tensor& message) {
                      const auto& [g, layout] = shards_[i];
                      message.copy_(apply_adjoint(segment, wanted_rows(g, segment, *plan_, layout.dim), layout));
                    });
  received_ = std::move(messages.received);
  pending_ = comm::start_exchange(domain, std::move(messages.sends), std::move(messages.receives), std::move(what));
}

at::Tensor Fold::own_part(const Shard& shard) const {
  const auto& [g, layout] = shard;
  at::Tensor result = empty_rows(g, layout.dim, plan_->owned().size()).zero_();
  for (const Segment& segment : plan_->local) {
    if (segment.owner < 0) continue;
    owned_rows(result, segment, *plan_, layout.dim)
        .add_(apply_adjoint(segment, wanted_rows(g, segment, *plan_, layout.dim), layout));
  }
  return result;
}

std::vector<at::Tensor> Fold::finish_each() {
  std::vector<at::Tensor> results;
  for (const Shard& shard : shards_) results.push_back(own_part(shard));
  pending_.wait();
  for (size_t peer = 0; peer < received_.size(); ++peer) {
    for_each_segment(
        plan_->sends[peer], received_[peer], shards_, [&](size_t i, const Segment& segment, const at::Tensor& message) {
          owned_rows(results[i], segment, *plan_, shards_[i].layout.dim).add_(message.to(results[i].device()));
        });
  }
  return results;
}

at::Tensor Fold::finish() { return finish_each().front(); }

}  // namespace graticule::halo
