// Works of transports that move messages only while they are called.
#pragma once

namespace graticule::comm {

/// A Work that can be kept moving while nobody waits for it.
class MovedByCalls {
 public:
  virtual ~MovedByCalls() = default;
  virtual void keep_moving() = 0;
};

}  // namespace graticule::comm
