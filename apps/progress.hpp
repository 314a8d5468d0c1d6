// How far a long job is, for who watches it.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

namespace graticule::apps {

/// A bar that redraws itself where `stream` is a terminal, else a line for every tenth of the job. Shows the time left,
/// as the time so far foretells it. Silent where `stream` is null.
class Progress {
 public:
  Progress(std::string title, std::FILE* stream);

  /// `fraction` of the job is done, from 0 to 1; at 1 the last line is written. `note` is shown behind the bar.
  void update(double fraction, const std::string& note = "");

 private:
  void draw(double fraction, const std::string& note);

  std::string title_;
  std::FILE* stream_;
  bool terminal_;
  bool finished_ = false;
  int tenths_ = 0;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_drawn_;
};

/// 75 s as "1:15", 5000 s as "1:23:20".
std::string clock_time(double seconds);

}  // namespace graticule::apps
