// What an error says, for another error's message.
#pragma once

#include <c10/util/Exception.h>

#include <exception>
#include <string>

namespace graticule::comm {

/// The message without the backtrace that c10::Error adds to it.
inline std::string reason(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  return torch_error != nullptr ? torch_error->what_without_backtrace() : error.what();
}

}  // namespace graticule::comm
