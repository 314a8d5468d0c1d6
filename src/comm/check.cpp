#include "graticule/comm/check.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "graticule/comm/collectives.hpp"
#include "graticule/comm/facts.hpp"

namespace graticule::comm {

bool check_mode() {
  const char* text = std::getenv("GRATICULE_CHECK");
  return text != nullptr && *text != '\0' && std::strcmp(text, "0") != 0;
}

void check_equal(const Domain& domain, const std::string& what, const std::string& facts) {
  // All ranks must gather as much, whatever they have to say.
  struct Note {
    uint64_t hash = 0;  // of the whole: what follows has the beginning of it
    std::array<char, 504> text{};
  };
  const std::string whole = what + ": " + facts;
  Note note;
  note.hash = Facts().add(whole).hash();
  std::copy_n(whole.begin(), std::min(whole.size(), note.text.size() - 1), note.text.begin());
  at::Tensor local = at::empty({sizeof(Note)}, at::kByte);
  std::memcpy(local.mutable_data_ptr(), &note, sizeof(Note));
  std::string differences;
  Note first;
  int rank = 0;
  for (const at::Tensor& theirs : all_gather(domain, local.to(steering_device(domain)), "check mode")) {
    std::memcpy(&note, theirs.cpu().const_data_ptr(), sizeof(Note));
    if (rank == 0) first = note;
    if (note.hash != first.hash) differences += c10::str("; rank ", rank, " has ", note.text.data());
    ++rank;
  }
  TORCH_CHECK(differences.empty(), what, ": the ranks differ: rank 0 has ", first.text.data(), differences,
              where(domain));
}

}  // namespace graticule::comm
