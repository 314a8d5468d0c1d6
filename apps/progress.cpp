#include "progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace graticule::apps {
namespace {

constexpr int bar_width = 24;
constexpr std::chrono::milliseconds redraw_interval{100};

double seconds_between(std::chrono::steady_clock::time_point start, std::chrono::steady_clock::time_point end) {
  return std::chrono::duration<double>(end - start).count();
}

}  // namespace

Progress::Progress(std::string title, std::FILE* stream)
    : title_(std::move(title)),
      stream_(stream),
      terminal_(stream != nullptr && isatty(fileno(stream)) != 0),
      start_(std::chrono::steady_clock::now()) {}

void Progress::update(double fraction, const std::string& note) {
  if (stream_ == nullptr || finished_) return;
  const int tenths = static_cast<int>(std::floor(fraction * 10 + 1e-9));
  const auto now = std::chrono::steady_clock::now();
  finished_ = fraction >= 1;
  const bool due = terminal_ ? now - last_drawn_ >= redraw_interval : tenths > tenths_;
  if (!due && !finished_) return;
  tenths_ = tenths;
  last_drawn_ = now;
  draw(fraction, note);
}

void Progress::draw(double fraction, const std::string& note) {
  const double spent = seconds_between(start_, std::chrono::steady_clock::now());
  const int filled = std::clamp(static_cast<int>(std::lround(fraction * bar_width)), 0, bar_width);
  const std::string bar = std::string(static_cast<size_t>(filled), '#') + std::string(bar_width - filled, '.');
  const std::string time = finished_      ? "took " + clock_time(spent)
                           : fraction > 0 ? clock_time(spent * (1 - fraction) / fraction) + " left"
                                          : "";
  const std::string line =
      fmt::format("{:<11}[{}] {:3.0f} %  {}{}{}", title_, bar, 100 * fraction, note, note.empty() ? "" : "  ", time);
  if (terminal_) {
    // Back to the first column, and away with what was there.
    fmt::print(stream_, "\r{}\x1b[K{}", line, finished_ ? "\n" : "");
  } else {
    fmt::print(stream_, "{}\n", line);
  }
  std::fflush(stream_);
}

std::string clock_time(double seconds) {
  const auto whole = static_cast<int64_t>(std::lround(seconds));
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

}  // namespace graticule::apps
