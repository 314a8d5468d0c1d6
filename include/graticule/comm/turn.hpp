// One thread at a time.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "graticule/comm/domain.hpp"

namespace graticule::comm {

/// A thread's use of a domain, from the first message of an exchange until all have come. Two threads whose exchanges
/// mingle would get each other's messages, which look alike where they call the same layer.
class Turn {
 public:
  Turn() = default;
  /// Fails the domain, on all ranks, where another thread of this process is in the middle of using it. `what` names
  /// the layer.
  Turn(const Domain& domain, const std::string& what);
  Turn(Turn&& other) noexcept : domain_(std::exchange(other.domain_, std::nullopt)) {}
  Turn& operator=(Turn&& other) noexcept {
    end();
    domain_ = std::exchange(other.domain_, std::nullopt);
    return *this;
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn() { end(); }

  void end() noexcept;

 private:
  std::optional<Domain> domain_;
};

}  // namespace graticule::comm
