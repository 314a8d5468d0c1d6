#include "report.hpp"

#include <fmt/format.h>

#include <cmath>
#include <stdexcept>

namespace graticule::apps {
namespace {

constexpr double mebi = 1024 * 1024;

// Text as a JSON string.
std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result.push_back('\\');
    if (static_cast<unsigned char>(c) < 0x20) {
      result += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      result.push_back(c);
    }
  }
  return result + "\"";
}

// JSON has no word for what is not finite.
std::string number(double value) { return std::isfinite(value) ? fmt::format("{:.17g}", value) : "null"; }

std::string json(const OverRanks& values) {
  return fmt::format(R"({{"least": {}, "most": {}, "sum": {}}})", number(values.least), number(values.most),
                     number(values.sum));
}

std::string json(const Exactness& e, double bound) {
  return fmt::format(R"({{"output": {}, "input_gradient": {}, "parameter_gradients": {}, "bound": {}}})",
                     number(e.output), number(e.input_gradient), number(e.parameter_gradients), number(bound));
}

std::string json(const FieldPictures& p) {
  return fmt::format(R"({{"truth": {}, "forecast": {}, "error": {}, "least": {}, "most": {}, "most_error": {}}})",
                     quoted(p.truth.filename().string()), quoted(p.forecast.filename().string()),
                     quoted(p.error.filename().string()), number(p.least), number(p.most), number(p.most_error));
}

std::string target_json(const Report& r, size_t i) {
  return fmt::format(R"({{"target": {}, "unit": {}, "rmse": {}, "baseline_rmse": {}, "pictures": {}}})",
                     quoted(r.targets[i]), quoted(r.units[i]), number(r.skill.forecast[i]), number(r.skill.baseline[i]),
                     json(r.pictures.at(i)));
}

std::string json(const Report& r) {
  std::string targets;
  for (size_t i = 0; i < r.targets.size(); ++i) targets += (i == 0 ? "" : ", ") + target_json(r, i);
  return fmt::format(R"({{"ranks": {}, "rows": {}, "columns": {}, "parameters": {}, "steps": {}, "data_seconds": {}, )"
                     R"("training_seconds": {}, "baseline": {}, "test_samples": {}, "targets": [{}], )"
                     R"("peak_bytes": {}, "step_bytes": {}, "exactness": {}, "checkpoint": {}}})",
                     r.ranks, r.rows, r.columns, r.parameters, r.steps, number(r.data_seconds),
                     number(r.training_seconds), quoted(r.baseline), r.test_samples, targets, json(r.peak_bytes),
                     r.step_bytes.has_value() ? json(*r.step_bytes) : "null",
                     r.exactness.has_value() ? json(*r.exactness, r.most_inexact) : "null", quoted(r.checkpoint));
}

std::string skill_table(const Report& r) {
  std::string text = fmt::format("\nRMSE on {} held-out cases, weighted by area\n  {:<12}{:<10}{:>12}{:>14}{:>10}\n",
                                 r.test_samples, "target", "unit", "forecast", r.baseline, "ratio");
  for (size_t i = 0; i < r.targets.size(); ++i) {
    text += fmt::format("  {:<12}{:<10}{:>12.5g}{:>14.5g}{:>10.3f}\n", r.targets[i], r.units[i], r.skill.forecast[i],
                        r.skill.baseline[i], r.skill.forecast[i] / r.skill.baseline[i]);
  }
  return text;
}

std::string exactness_line(const Report& r) {
  if (!r.exactness.has_value()) return "cut against uncut    one rank, nothing is cut\n";
  return fmt::format(
      "cut against uncut    output {:.1e}, input gradient {:.1e}, parameter gradients {:.1e} (float64, relative; at "
      "most "
      "{:.0e}): {}\n",
      r.exactness->output, r.exactness->input_gradient, r.exactness->parameter_gradients, r.most_inexact,
      r.exactness->worst() <= r.most_inexact ? "exact" : "NOT EXACT");
}

}  // namespace

std::string to_text(const Report& r) {
  std::string text = skill_table(r) + "\n";
  text += exactness_line(r);
  text += fmt::format("memory a rank        {:.0f} to {:.0f} MiB at the peak, {} rank{}\n", r.peak_bytes.least / mebi,
                      r.peak_bytes.most / mebi, r.ranks, r.ranks == 1 ? "" : "s");
  if (r.step_bytes.has_value()) {
    text += fmt::format("sent a step          {:.2f} MiB by all ranks, {:.2f} MiB at most by one\n",
                        r.step_bytes->sum / mebi, r.step_bytes->most / mebi);
  }
  text += fmt::format("time                 data {:.1f} s, training {:.1f} s ({} steps)\n", r.data_seconds,
                      r.training_seconds, r.steps);
  if (!r.checkpoint.empty()) text += fmt::format("checkpoint           {}\n", r.checkpoint);
  for (const FieldPictures& p : r.pictures) {
    text += fmt::format("pictures             {}, {}, {}\n", p.truth.string(), p.forecast.filename().string(),
                        p.error.filename().string());
  }
  return text;
}

MetricsFile::MetricsFile(const std::string& path) : path_(path), file_(path) {
  if (!file_) throw std::runtime_error("cannot write " + path);
}

void MetricsFile::add(const TrainingStep& s) {
  write(fmt::format(R"({{"step": {}, "loss": {}, "learning_rate": {}, "seconds": {}}})", s.step, number(s.loss),
                    number(s.learning_rate), number(s.seconds)));
}

void MetricsFile::add(const Report& report) { write(json(report)); }

void MetricsFile::write(const std::string& line) {
  file_ << line << std::endl;
  if (!file_) throw std::runtime_error("cannot write " + path_);
}

}  // namespace graticule::apps
