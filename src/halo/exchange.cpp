#include "graticule/halo/exchange.hpp"

#include <ATen/ATen.h>

#include <functional>
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

comm::MessageTag message_tag(at::ScalarType dtype, at::IntArrayRef sizes, const ExchangePlan& plan,
                             const Layout& layout, const std::string& what, comm::Facts facts, bool adjoint) {
  facts.add(what).add(static_cast<int64_t>(adjoint)).add(static_cast<int64_t>(dtype));
  facts.add(plan.partition.offsets());
  for (const rows::Wanted& part : plan.parts) {
    for (const rows::Interval& wanted : part) facts.add(wanted.begin).add(wanted.end);
  }
  facts.add(static_cast<int64_t>(plan.boundary));
  if (has_pole(plan)) facts.add(layout.lon_dim).add(static_cast<int64_t>(layout.flip_sign));
  const auto dims = static_cast<int64_t>(sizes.size());
  facts.add(dims).add(layout.dim);
  for (int64_t d = 0; d < dims; ++d) {
    if (d != layout.dim) facts.add(sizes[d]);
  }
  return comm::MessageTag{facts.hash()};
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

using Pack = std::function<void(const Segment&, const at::Tensor& rows)>;

// Calls `use` with each segment of a message and its rows. They lie one after the other, each contiguous, with rows in
// their place among the dimensions.
void for_each_segment(const PeerSegments& peer, const at::Tensor& buffer, const at::Tensor& like, int64_t dim,
                      const Pack& use) {
  int64_t values = 0;
  for (const Segment& segment : peer.segments) {
    const at::Tensor rows =
        comm::payload(buffer, like.scalar_type(), with_rows(like.sizes(), dim, segment.source_rows().size()), values);
    use(segment, rows);
    values += rows.numel();
  }
}

struct Messages {
  std::vector<comm::Message> sends;
  std::vector<comm::Message> receives;
  std::vector<at::Tensor> received;
};

// One message to each of `to`, packed by `pack`, and room for one from each of `from`.
Messages make_messages(const comm::Domain& domain, const at::Tensor& t, int64_t dim, const comm::MessageTag& tag,
                       const std::vector<PeerSegments>& to, const std::vector<PeerSegments>& from, const Pack& pack) {
  const at::Device device = comm::message_device(domain, t.device());
  const auto make_buffer = [&](const PeerSegments& peer) {
    return comm::make_buffer(tag, device, t.scalar_type(), with_rows(t.sizes(), dim, peer.rows));
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
    for_each_segment(peer, buffer, t, dim, pack);
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
    : plan_(std::move(plan)), layout_(layout), x_(x) {
  check(x, layout, /*is_result=*/false, *plan_, domain, what);
  Messages messages =
      make_messages(domain, x, layout.dim, tag, plan_->sends, plan_->receives,
                    [&](const Segment& segment, const at::Tensor& message) {
                      const rows::Interval source = segment.source_rows();
                      copy_rows(x, source.begin - plan_->owned().begin, message, 0, source.size(), layout.dim);
                    });
  received_ = std::move(messages.received);
  pending_ = comm::start_exchange(domain, std::move(messages.sends), std::move(messages.receives), std::move(what));
}

comm::MessageTag Gather::tag(at::ScalarType dtype, at::IntArrayRef sizes, const ExchangePlan& plan,
                             const Layout& layout, const std::string& what, const comm::Facts& facts) {
  return message_tag(dtype, sizes, plan, layout, what, facts, /*adjoint=*/false);
}

std::vector<at::Tensor> Gather::finish_parts() {
  const int64_t dim = layout_.dim;
  std::vector<at::Tensor> results(plan_->parts.size());
  const auto result_of = [&](int part) -> const at::Tensor& {
    if (!results[part].defined()) {
      results[part] = at::empty(with_rows(x_.sizes(), dim, plan_->result(part).size()),
                                x_.options().memory_format(memory_format(x_)));
    }
    return results[part];
  };
  for (const Segment& segment : plan_->local) {
    const at::Tensor& result = result_of(segment.part);
    const int64_t row = segment.wanted - plan_->result(segment.part).begin;
    if (segment.owner < 0) {
      clear_rows(result, row, segment.count, dim);
    } else if (is_plain(segment)) {
      copy_rows(x_, segment.source - plan_->owned().begin, result, row, segment.count, dim);
    } else {
      wanted_rows(result, segment, *plan_, dim).copy_(apply(segment, owned_rows(x_, segment, *plan_, dim), layout_));
    }
  }
  pending_.wait();
  for (size_t i = 0; i < received_.size(); ++i) {
    if (const auto whole = as_whole_part(plan_->receives[i], received_[i])) {
      results[plan_->receives[i].segments[0].part] = *whole;
      continue;
    }
    for_each_segment(plan_->receives[i], received_[i], x_, dim, [&](const Segment& segment, const at::Tensor& message) {
      const at::Tensor& result = result_of(segment.part);
      if (is_plain(segment)) {
        copy_rows(message, 0, result, segment.wanted - plan_->result(segment.part).begin, segment.count, dim);
      } else {
        wanted_rows(result, segment, *plan_, dim).copy_(apply(segment, message, layout_));
      }
    });
  }
  for (size_t part = 0; part < results.size(); ++part) result_of(static_cast<int>(part));
  return results;
}

std::optional<at::Tensor> Gather::as_whole_part(const PeerSegments& peer, const at::Tensor& buffer) const {
  const Segment& segment = peer.segments[0];
  if (peer.segments.size() != 1 || !is_plain(segment) || segment.count != plan_->result(segment.part).size()) return {};
  if (memory_format(x_) != at::MemoryFormat::Contiguous) return {};
  return comm::payload(buffer, x_.scalar_type(), with_rows(x_.sizes(), layout_.dim, segment.count)).to(x_.device());
}

void Gather::keep_moving() { pending_.keep_moving(); }

at::Tensor Gather::finish() { return finish_parts().front(); }

Fold::Fold(const at::Tensor& g, std::shared_ptr<const ExchangePlan> plan, Layout layout, const comm::Domain& domain,
           std::string what, const comm::Facts& facts)
    : plan_(std::move(plan)), layout_(layout), g_(g) {
  check(g, layout, /*is_result=*/true, *plan_, domain, what);
  Messages messages =
      make_messages(domain, g, layout.dim, message_tag(g.scalar_type(), g.sizes(), *plan_, layout, what, facts, true),
                    plan_->receives, plan_->sends, [&](const Segment& segment, const at::Tensor& message) {
                      message.copy_(apply_adjoint(segment, wanted_rows(g, segment, *plan_, layout.dim), layout));
                    });
  received_ = std::move(messages.received);
  pending_ = comm::start_exchange(domain, std::move(messages.sends), std::move(messages.receives), std::move(what));
}

at::Tensor Fold::finish() {
  const int64_t dim = layout_.dim;
  at::Tensor result =
      at::empty(with_rows(g_.sizes(), dim, plan_->owned().size()), g_.options().memory_format(memory_format(g_)));
  result.zero_();
  for (const Segment& segment : plan_->local) {
    if (segment.owner < 0) continue;
    owned_rows(result, segment, *plan_, dim)
        .add_(apply_adjoint(segment, wanted_rows(g_, segment, *plan_, dim), layout_));
  }
  pending_.wait();
  for (size_t i = 0; i < received_.size(); ++i) {
    for_each_segment(plan_->sends[i], received_[i], g_, dim, [&](const Segment& segment, const at::Tensor& message) {
      owned_rows(result, segment, *plan_, dim).add_(message.to(result.device()));
    });
  }
  return result;
}

}  // namespace graticule::halo
