#include "graticule/comm/collectives.hpp"

#include <ATen/ATen.h>

#include <functional>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <utility>

#include "comm/domain_state.hpp"
#include "comm/message_header.hpp"
#include "comm/reason.hpp"
#include "comm/traffic.hpp"
#include "graticule/comm/exchange.hpp"

namespace graticule::comm {
namespace {

constexpr uint64_t most_ordered_bytes = 64 << 10;

[[noreturn]] void fail(const Domain& domain, const std::string& why) {
  const std::string text = c10::str(why, " (rank ", domain.rank(), " of ", domain.size(), ")");
  poison(domain, text);
  TORCH_CHECK(false, text);
}

uint64_t next_sequence(const Domain& domain) {
  Domain::State& state = domain.state();
  const std::lock_guard lock(state.mutex);
  return state.collectives++;
}

}  // namespace

std::vector<at::Tensor> all_gather(const Domain& domain, const at::Tensor& local, const std::string& what,
                                   Facts facts) {
  check_alive(domain);
  facts.add(what).add(static_cast<int64_t>(local.scalar_type())).add(local.sizes().vec());
  const uint64_t sequence = next_sequence(domain);
  at::Tensor buffer = make_buffer({facts.hash()}, local.options(), local.sizes());
  payload(buffer, local.scalar_type(), local.sizes()).copy_(local);
  if (has_header(buffer)) {
    MessageHeader& header = header_of(buffer);
    header.magic = MessageHeader::magic_number;
    header.sequence = sequence;
    header.source = domain.rank();
  }
  std::vector<std::vector<at::Tensor>> gathered(1);
  for (int rank = 0; rank < domain.size(); ++rank) gathered[0].push_back(at::zeros_like(buffer));
  std::vector<at::Tensor> inputs{buffer};
  count_sent(local.nbytes() * (domain.size() - 1));
  try {
    const auto work = domain.group()->getBackend(buffer.device().type())->allgather(gathered, inputs);
    work->wait(domain.timeout());
  } catch (const std::exception& error) {
    fail(domain, c10::str(what, ": gathering over the ranks: ", reason(error)));
  }
  std::vector<at::Tensor> result;
  for (int rank = 0; rank < domain.size(); ++rank) {
    const at::Tensor& theirs = gathered[0][rank];
    if (has_header(theirs)) {
      const MessageHeader& header = header_of(theirs);
      const MessageHeader& own = header_of(buffer);
      if (header.magic != own.magic || header.tag != own.tag || header.sequence != own.sequence ||
          header.bytes != own.bytes || header.source != rank) {
        fail(domain, c10::str(what, ": rank ", rank,
                              " takes part with another layer, shape or dtype: the ranks do not make the same calls"));
      }
    }
    result.push_back(payload(theirs, local.scalar_type(), local.sizes()));
  }
  return result;
}

void all_reduce_sum_(const Domain& domain, at::Tensor& t, const std::string& what) {
  check_alive(domain);
  if (domain.size() == 1) return;
  if (t.nbytes() <= most_ordered_bytes) {
    std::vector<at::Tensor> parts = all_gather(domain, t.contiguous(), what);
    for (int rank = 1; rank < domain.size(); ++rank) parts[0].add_(parts[rank]);
    t.copy_(parts[0]);
    return;
  }
  // The transport's reduction carries no header: the ranks agree on what they add before.
  if (t.device().is_cpu()) {
    all_gather(domain, at::empty({0}, t.options()), c10::str(what, " (a sum of shape ", t.sizes(), ")"));
  }
  at::Tensor sum = t.contiguous();
  std::vector<at::Tensor> tensors{sum};
  count_sent(t.nbytes());
  try {
    domain.group()->getBackend(t.device().type())->allreduce(tensors)->wait(domain.timeout());
  } catch (const std::exception& error) {
    fail(domain, c10::str(what, ": adding over the ranks: ", reason(error)));
  }
  if (!sum.is_same(t)) t.copy_(sum);
}

std::vector<int64_t> gather_sizes(const Domain& domain, int64_t local_rows, const std::string& what) {
  std::vector<int64_t> offsets{0};
  for (const at::Tensor& rows : all_gather(domain, at::tensor({local_rows}, at::kLong), what + " (sizes)")) {
    offsets.push_back(offsets.back() + rows.item<int64_t>());
  }
  return offsets;
}

}  // namespace graticule::comm
