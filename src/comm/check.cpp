#include "graticule/comm/check.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "graticule/comm/collectives.hpp"

namespace graticule::comm {

bool check_mode() {
  const char* text = std::getenv("GRATICULE_CHECK");
  return text != nullptr && *text != '\0' && std::strcmp(text, "0") != 0;
}

void check_equal(const Domain& domain, const std::string& what, const std::string& facts) {
  // All ranks must gather as much, whatever they have to say.
  constexpr int64_t room = 512;
  const std::string note = what + ": " + facts;
  at::Tensor local = at::zeros({room}, at::kByte);
  std::memcpy(local.mutable_data_ptr(), note.data(), std::min<size_t>(note.size(), room - 1));
  std::string differences;
  std::string first;
  int rank = 0;
  for (const at::Tensor& theirs : all_gather(domain, local, "check mode")) {
    const std::string text(static_cast<const char*>(theirs.const_data_ptr()));
    if (rank == 0) first = text;
    if (text != first) differences += c10::str("; rank ", rank, " has ", text);
    ++rank;
  }
  TORCH_CHECK(differences.empty(), what, ": the ranks differ: rank 0 has ", first, differences, " (rank ",
              domain.rank(), " of ", domain.size(), ")");
}

}  // namespace graticule::comm
