// What a call that must fail says.
#pragma once

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>

namespace graticule::support {

/// The message of the c10::Error that `call` throws; a failure of the test where it throws none.
template <typename Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  ADD_FAILURE() << "expected an error, got none";
  return "";
}

/// Whether `text` holds `part`, for EXPECT_TRUE: says both where it does not.
inline ::testing::AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "\"" << text << "\" does not hold \"" << part << "\"";
}

/// Seconds that `call` takes.
template <typename Call>
double seconds_of(const Call& call) {
  const auto begin = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace graticule::support
