#include "graticule/halo/exchange.hpp"

#include <ATen/ATen.h>

#include <functional>
#include <utility>

#include "graticule/halo/memory_format.hpp"
#include "halo/row_copy.hpp"

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

// Shape of a message: rows outermost, the other dimensions in their order.
std::vector<int64_t> message_shape(at::IntArrayRef sizes, int64_t dim, int64_t count) {
  std::vector<int64_t> result{count};
  for (int64_t d = 0; d < static_cast<int64_t>(sizes.size()); ++d) {
    if (d != dim) result.push_back(sizes[d]);
  }
  return result;
}

bool has_pole(const ExchangePlan& plan) {
  return plan.boundary == rows::Boundary::pole_on_row || plan.boundary == rows::Boundary::pole_between;
}

void check(const at::Tensor& t, const Layout& layout, int64_t expected_rows, const ExchangePlan& plan,
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
  if (t.size(layout.dim) != expected_rows) {
    const std::string message = c10::str(what, ": expected ", expected_rows, " rows in dimension ", layout.dim,
                                         " on rank ", domain.rank(), ", got ", t.size(layout.dim));
    comm::poison(domain, message);
    TORCH_CHECK(false, message);
  }
}

comm::MessageTag message_tag(const at::Tensor& t, const ExchangePlan& plan, const Layout& layout,
                             const std::string& what, comm::Facts facts, bool adjoint) {
  facts.add(what).add(static_cast<int64_t>(adjoint)).add(static_cast<int64_t>(t.scalar_type()));
  facts.add(plan.partition.offsets());
  for (const rows::Wanted& part : plan.parts) {
    for (const rows::Interval& wanted : part) facts.add(wanted.begin).add(wanted.end);
  }
  facts.add(static_cast<int64_t>(plan.boundary));
  if (has_pole(plan)) facts.add(layout.lon_dim).add(static_cast<int64_t>(layout.flip_sign));
  facts.add(t.dim()).add(layout.dim);
  for (int64_t d = 0; d < t.dim(); ++d) {
    if (d != layout.dim) facts.add(t.size(d));
  }
  return comm::MessageTag{facts.hash()};
}

// Whether the rows are taken as they are.
bool is_plain(const Segment& segment) { return segment.step == 1 && !segment.across_pole; }

// A run of source rows, rows outermost, as the wanted rows that the segment makes of them.
at::Tensor apply(const Segment& segment, at::Tensor source, const Layout& layout) {
  if (segment.step == 0) {
    std::vector<int64_t> sizes = source.sizes().vec();
    sizes[0] = segment.count;
    source = source.expand(sizes);
  } else if (segment.step < 0) {
    source = source.flip(0);
  }
  if (segment.across_pole) {
    const int64_t lon_dim = layout.lon_dim < layout.dim ? layout.lon_dim + 1 : layout.lon_dim;
    source = source.roll(source.size(lon_dim) / 2, lon_dim);
    if (layout.flip_sign) source = source.neg();
  }
  return source;
}

// The adjoint of apply.
at::Tensor apply_adjoint(const Segment& segment, at::Tensor wanted, const Layout& layout) {
  if (segment.across_pole) {
    const int64_t lon_dim = layout.lon_dim < layout.dim ? layout.lon_dim + 1 : layout.lon_dim;
    wanted = wanted.roll(-(wanted.size(lon_dim) / 2), lon_dim);
    if (layout.flip_sign) wanted = wanted.neg();
  }
  if (segment.step == 0) return wanted.sum(0, /*keepdim=*/true);
  return segment.step < 0 ? wanted.flip(0) : wanted;
}

at::Tensor wanted_rows(const at::Tensor& t, const Segment& segment, const ExchangePlan& plan, int64_t dim) {
  return t.narrow(dim, segment.wanted - plan.result(segment.part).begin, segment.count).movedim(dim, 0);
}

at::Tensor owned_rows(const at::Tensor& t, const Segment& segment, const ExchangePlan& plan, int64_t dim) {
  const rows::Interval source = segment.source_rows();
  return t.narrow(dim, source.begin - plan.owned().begin, source.size()).movedim(dim, 0);
}

using Pack = std::function<void(const Segment&, const at::Tensor& rows)>;

// Calls `use` with each segment of each peer and its rows of the message.
void for_each_segment(const PeerSegments& peer, const at::Tensor& message, const Pack& use) {
  if (peer.segments.size() == 1) return use(peer.segments[0], message);
  int64_t at_row = 0;
  for (const Segment& segment : peer.segments) {
    const int64_t count = segment.source_rows().size();
    use(segment, message.narrow(0, at_row, count));
    at_row += count;
  }
}

struct Messages {
  std::vector<comm::Message> sends;
  std::vector<comm::Message> receives;
  std::vector<at::Tensor> received;
};

// One message to each of `to`, packed by `pack`, and room for one from each of `from`.
Messages make_messages(const at::Tensor& t, int64_t dim, const comm::MessageTag& tag,
                       const std::vector<PeerSegments>& to, const std::vector<PeerSegments>& from, const Pack& pack) {
  Messages messages;
  messages.receives.reserve(from.size());
  messages.received.reserve(from.size());
  messages.sends.reserve(to.size());
  for (const PeerSegments& peer : from) {
    const auto shape = message_shape(t.sizes(), dim, peer.rows);
    at::Tensor buffer = comm::make_buffer(tag, t.options(), shape);
    messages.received.push_back(comm::payload(buffer, t.scalar_type(), shape));
    messages.receives.push_back({peer.peer, std::move(buffer)});
  }
  for (const PeerSegments& peer : to) {
    const auto shape = message_shape(t.sizes(), dim, peer.rows);
    at::Tensor buffer = comm::make_buffer(tag, t.options(), shape);
    for_each_segment(peer, comm::payload(buffer, t.scalar_type(), shape), pack);
    messages.sends.push_back({peer.peer, std::move(buffer)});
  }
  return messages;
}

}  // namespace

Gather::Gather(const at::Tensor& x, std::shared_ptr<const ExchangePlan> plan, Layout layout, const comm::Domain& domain,
               std::string what, const comm::Facts& facts)
    : plan_(std::move(plan)), layout_(layout), x_(x) {
  check(x, layout, plan_->owned().size(), *plan_, domain, what);
  Messages messages =
      make_messages(x, layout.dim, message_tag(x, *plan_, layout, what, facts, false), plan_->sends, plan_->receives,
                    [&](const Segment& segment, const at::Tensor& message) {
                      const rows::Interval source = segment.source_rows();
                      pack_rows(x, source.begin - plan_->owned().begin, source.size(), layout.dim, message);
                    });
  received_ = std::move(messages.received);
  pending_ = comm::start_exchange(domain, std::move(messages.sends), std::move(messages.receives), std::move(what));
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
    for_each_segment(plan_->receives[i], received_[i], [&](const Segment& segment, const at::Tensor& message) {
      const at::Tensor& result = result_of(segment.part);
      if (is_plain(segment)) {
        unpack_rows(message, result, segment.wanted - plan_->result(segment.part).begin, segment.count, dim);
      } else {
        wanted_rows(result, segment, *plan_, dim).copy_(apply(segment, message, layout_));
      }
    });
  }
  for (size_t part = 0; part < results.size(); ++part) result_of(static_cast<int>(part));
  return results;
}

std::optional<at::Tensor> Gather::as_whole_part(const PeerSegments& peer, const at::Tensor& message) const {
  const Segment& segment = peer.segments[0];
  if (peer.segments.size() != 1 || !is_plain(segment) || segment.count != plan_->result(segment.part).size()) return {};
  if (memory_format(x_) != at::MemoryFormat::Contiguous) return {};
  at::Tensor moved = message.movedim(0, layout_.dim);
  return moved.is_contiguous() ? std::optional(moved) : std::nullopt;
}

at::Tensor Gather::finish() { return finish_parts().front(); }

Fold::Fold(const at::Tensor& g, std::shared_ptr<const ExchangePlan> plan, Layout layout, const comm::Domain& domain,
           std::string what, const comm::Facts& facts)
    : plan_(std::move(plan)), layout_(layout), g_(g) {
  check(g, layout, plan_->result().size(), *plan_, domain, what);
  Messages messages =
      make_messages(g, layout.dim, message_tag(g, *plan_, layout, what, facts, true), plan_->receives, plan_->sends,
                    [&](const Segment& segment, const at::Tensor& message) {
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
    for_each_segment(plan_->sends[i], received_[i], [&](const Segment& segment, const at::Tensor& message) {
      owned_rows(result, segment, *plan_, dim).add_(message);
    });
  }
  return result;
}

}  // namespace graticule::halo
