#include "train_command.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "area_weights.hpp"
#include "checkpoint.hpp"
#include "data_source.hpp"
#include "evaluation.hpp"
#include "exactness_check.hpp"
#include "graticule/comm/exchange.hpp"
#include "graticule/nn/sharding.hpp"
#include "measurements.hpp"
#include "pictures.hpp"
#include "progress.hpp"
#include "report.hpp"
#include "train_settings.hpp"
#include "training.hpp"

namespace graticule::apps {
namespace {

constexpr double most_inexact = 1e-10;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// What the steps of the command share. Collective members must be called by all ranks.
class TrainRun {
 public:
  TrainRun(const TrainSettings& settings, const comm::Domain& domain)
      : settings_(settings), domain_(domain), out_(domain.rank() == 0 ? stdout : nullptr) {
    if (domain.size() > 1) cut_ = domain;
  }

  int run() {
    // A checkpoint that cannot be read is an error before the simulation, not after it.
    if (!settings_.load.empty()) header_ = load_header(settings_.load);
    open_output();
    get_data();
    build_model();
    train_model();
    conclude();
    return verdict();
  }

 private:
  [[nodiscard]] bool writes() const { return domain_.rank() == 0; }

  [[nodiscard]] std::string path(const std::string& name) const {
    return (std::filesystem::path(settings_.out) / name).string();
  }

  void say(const std::string& text) const {
    if (out_ == nullptr) return;
    fmt::print(out_, "{}", text);
    std::fflush(out_);
  }

  void open_output() {
    if (!writes()) return;
    std::filesystem::create_directories(settings_.out);
    metrics_ = std::make_unique<MetricsFile>(path("metrics.jsonl"));
  }

  void get_data() {
    const auto start = std::chrono::steady_clock::now();
    Progress progress(settings_.data.empty() ? "simulating" : "reading", out_);
    data_ = load_data(settings_, cut_, [&](double fraction) { progress.update(fraction); });
    report_.data_seconds = seconds_since(start);
    const auto rank = static_cast<size_t>(domain_.rank());
    weights_ = area_weights(data_.latitudes, data_.offsets[rank], data_.offsets[rank + 1]);
  }

  void build_model() {
    CheckpointHeader& h = header_;
    if (settings_.load.empty()) {
      h = new_header(settings_, data_);
      h.normalisation = normalisation_of(data_.training, data_.input_names == data_.target_names, weights_, cut_);
    } else {
      check_header(h, settings_, data_);
    }
    const at::ScalarType stored_type = h.type;
    if (settings_.float64.has_value()) h.type = *settings_.float64 ? at::kDouble : at::kFloat;
    model_ = Emulator(h.options, data_.latitudes, cut_);
    model_->to(h.type);
    if (settings_.load.empty()) {
      model_->initialise(static_cast<uint64_t>(settings_.seed));
    } else {
      load_parameters(settings_.load, model_);
    }
    optimizer_.emplace(make_optimizer(model_, settings_.learning_rate));
    if (!settings_.load.empty() && stored_type == h.type) load_optimizer(settings_.load, *optimizer_);
  }

  [[nodiscard]] int64_t steps() const {
    if (!settings_.epochs.has_value()) return settings_.steps.value_or(TrainSettings::default_steps);
    const int64_t samples = data_.training.inputs.size(0);
    return *settings_.epochs * ((samples + settings_.batch - 1) / settings_.batch);
  }

  void introduce() const {
    int64_t parameters = 0;
    for (const at::Tensor& p : model_->parameters()) parameters += p.numel();
    say(fmt::format("graticule {}: {} x {} grid over {} rank{}, {} samples to train on, {} parameters in {}\n",
                    GRATICULE_VERSION, header_.options.rows, header_.options.columns, domain_.size(),
                    domain_.size() == 1 ? "" : "s", data_.training.inputs.size(0), parameters,
                    header_.type == at::kDouble ? "float64" : "float32"));
  }

  void train_model() {
    introduce();
    const auto start = std::chrono::steady_clock::now();
    const uint64_t sent_before = comm::bytes_sent();
    const int64_t planned = steps();
    const TrainingOptions options{planned, settings_.batch, settings_.learning_rate,
                                  static_cast<uint64_t>(settings_.seed)};
    Progress progress("training", out_);
    const auto on_step = [&](const TrainingStep& step) {
      const double rate = static_cast<double>(step.step * settings_.batch) / seconds_since(start);
      progress.update(static_cast<double>(step.step) / static_cast<double>(planned),
                      fmt::format("step {}/{}  loss {:.5f}  {:.1f} samples/s", step.step, planned, step.loss, rate));
      if (metrics_ == nullptr) return;
      TrainingStep counted = step;
      counted.step += header_.steps;
      metrics_->add(counted);
    };
    const NormalisedSamples samples = normalise(data_.training, header_.normalisation, header_.type);
    train(model_, *optimizer_, samples, weights_, options, cut_, on_step);
    report_.training_seconds = seconds_since(start);
    report_.steps = planned;
    header_.steps += planned;
    if (planned == 0) return;
    const auto sent = static_cast<double>(comm::bytes_sent() - sent_before);
    report_.step_bytes = over_ranks(sent / static_cast<double>(planned), domain_);
  }

  void conclude() {
    Report& r = report_;
    r.ranks = domain_.size();
    r.rows = header_.options.rows;
    r.columns = header_.options.columns;
    for (const at::Tensor& p : model_->parameters()) r.parameters += p.numel();
    r.targets = data_.target_names;
    r.units = data_.target_units;
    r.baseline = data_.baseline_name;
    r.test_samples = data_.test.inputs.size(0);
    r.skill = evaluate(model_, data_.test, header_.normalisation, weights_, settings_.batch, cut_);
    // Before the check, whose uncut run on one rank is no part of the work.
    r.peak_bytes = over_ranks(peak_resident_bytes(), domain_);
    r.most_inexact = most_inexact;
    if (cut_.has_value()) r.exactness = check_exactness(model_, data_, header_.normalisation, *cut_);
    draw_case();
    if (!writes()) return;
    r.checkpoint = path("checkpoint.pt");
    save_checkpoint(r.checkpoint, header_, model_, *optimizer_);
    metrics_->add(r);
    say(to_text(r));
  }

  // The last held-out case, the furthest from its run's start, at the last output time.
  void draw_case() {
    const auto whole = [&](const at::Tensor& x) {
      const at::Tensor last = x.select(1, x.size(1) - 1).contiguous();
      return cut_.has_value() ? gather_tensor(last, 1, *cut_) : last;
    };
    const int64_t count = data_.test.targets.size(0);
    const at::Tensor forecast = whole(forecast_samples(model_, data_.test, count - 1, count, header_.normalisation)[0]);
    const at::Tensor truth = whole(data_.test.targets[count - 1]);
    if (!writes()) return;
    for (size_t i = 0; i < data_.target_names.size(); ++i) {
      const auto channel = static_cast<int64_t>(i);
      report_.pictures.push_back(
          write_pictures(settings_.out, data_.target_names[i], truth[channel], forecast[channel]));
    }
  }

  [[nodiscard]] int verdict() const {
    const bool exact = !report_.exactness.has_value() || report_.exactness->worst() <= most_inexact;
    const bool skilled = !settings_.require_skill || report_.skill.beats_baseline();
    if (writes() && !exact) fmt::print(stderr, "graticule: the cut network differs from the uncut one\n");
    if (writes() && !skilled) {
      fmt::print(stderr, "graticule: not every target is forecast better than by {}\n", data_.baseline_name);
    }
    return exact && skilled ? 0 : 1;
  }

  const TrainSettings& settings_;
  const comm::Domain& domain_;
  std::optional<comm::Domain> cut_;  // none on one rank
  std::FILE* out_;
  std::unique_ptr<MetricsFile> metrics_;  // rank 0's
  DataSet data_;
  at::Tensor weights_;
  CheckpointHeader header_;
  Emulator model_{nullptr};
  std::optional<torch::optim::AdamW> optimizer_;
  Report report_;
};

}  // namespace

std::string train_summary() { return "train a weather emulator on a grid that is cut over the ranks"; }

int train_command(const std::vector<std::string>& arguments, const comm::Domain& domain) {
  TrainSettings settings;
  const std::vector<Option> options = train_options(settings);
  if (!parse_options(arguments, options)) {
    if (domain.rank() == 0) {
      fmt::print("usage: graticule train --out DIR [OPTION...]\n\n{}\n\noptions (defaults in brackets)\n{}",
                 train_summary(), describe_options(options));
    }
    return 0;
  }
  check_settings(settings);
  return TrainRun(settings, domain).run();
}

}  // namespace graticule::apps
