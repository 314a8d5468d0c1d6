// What profilers are told of a call.
#pragma once

#include <ATen/record_function.h>
#include <c10/util/StringUtil.h>

#include <string_view>

namespace graticule::ops {

/// An event "LAYER DIRECTION: WHAT" that lasts as long as this, for profilers; without one no text is made.
class CallTrace {
 public:
  template <typename... Words>
  CallTrace(std::string_view layer, const char* direction, const Words&... what) : record_(at::RecordScope::FUNCTION) {
    if (record_.isActive()) record_.before(c10::str(layer, " ", direction, ": ", what...));
  }

 private:
  at::RecordFunction record_;
};

}  // namespace graticule::ops
