// The count of what was sent.
#pragma once

#include <cstdint>

namespace graticule::comm {
void count_sent(uint64_t bytes, uint64_t messages);
}
