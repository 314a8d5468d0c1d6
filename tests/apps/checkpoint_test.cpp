// A network trained on two ranks goes on on three.
#include "checkpoint.hpp"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <vector>

#include "apps/synthetic_data.hpp"
#include "area_weights.hpp"
#include "support/threads.hpp"
#include "training.hpp"

namespace graticule::apps {
namespace {

std::string file(const std::string& name) { return (std::filesystem::path(::testing::TempDir()) / name).string(); }

CheckpointHeader header_of(const DataSet& data, const Normalisation& by) {
  CheckpointHeader header;
  header.options.input_channels = header.options.output_channels = 2;
  header.options.rows = 13;
  header.options.columns = 16;
  header.options.channels = 8;
  header.type = at::kDouble;
  header.input_names = data.input_names;
  header.target_names = data.target_names;
  header.normalisation = by;
  return header;
}

// Trains for some steps, from the checkpoint where `load` names one, into the checkpoint where `save` does.
std::vector<double> losses(const std::optional<comm::Domain>& domain, int64_t steps, const std::string& load,
                           const std::string& save) {
  const DataSet data = synthetic_data(13, 16, domain);
  const size_t rank = domain.has_value() ? static_cast<size_t>(domain->rank()) : 0;
  const at::Tensor weights = area_weights(data.latitudes, data.offsets[rank], data.offsets[rank + 1]);
  CheckpointHeader header =
      load.empty() ? header_of(data, normalisation_of(data.training, true, weights, domain)) : load_header(load);
  Emulator model(header.options, data.latitudes, domain);
  model->to(header.type);
  model->initialise(5);
  torch::optim::AdamW optimizer = make_optimizer(model, 1e-3);
  if (!load.empty()) {
    load_parameters(load, model);
    load_optimizer(load, optimizer);
  }
  std::vector<double> result;
  train(model, optimizer, normalise(data.training, header.normalisation, header.type), weights,
        {.steps = steps, .batch = 6, .learning_rate = 1e-3, .seed = 7}, domain,
        [&](const TrainingStep& step) { result.push_back(step.loss); });
  header.steps += steps;
  if (!save.empty() && rank == 0) save_checkpoint(save, header, model, optimizer);
  return result;
}

TEST(Checkpoint, GoesOnOnAnotherNumberOfRanks) {
  const std::string two = file("graticule_two.pt"), one = file("graticule_one.pt");
  support::run_ranks(2, [&](const comm::Domain& domain) { losses(domain, 3, "", two); });
  losses(std::nullopt, 3, "", one);
  const std::vector<double> expected = losses(std::nullopt, 3, one, "");
  std::mutex mutex;
  support::run_ranks(3, [&](const comm::Domain& domain) {
    const std::vector<double> continued = losses(domain, 3, two, "");
    const std::lock_guard lock(mutex);
    for (size_t i = 0; i < 3; ++i) EXPECT_LT(std::abs(continued[i] - expected[i]), 1e-9 * expected[i]) << i;
  });
  std::filesystem::remove(two);
  std::filesystem::remove(one);
}

TEST(Checkpoint, HoldsAllThatTheNetworkNeeds) {
  const std::string path = file("graticule_all.pt");
  losses(std::nullopt, 2, "", path);
  const CheckpointHeader header = load_header(path);
  EXPECT_EQ(header.steps, 2);
  EXPECT_EQ(header.type, at::kDouble);
  EXPECT_EQ(header.input_names, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(header.target_names, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(header.options.rows, 13);
  EXPECT_EQ(header.options.channels, 8);
  EXPECT_TRUE(header.normalisation.from_baseline);
  EXPECT_EQ(header.normalisation.residual_deviation.sizes(), at::IntArrayRef({2, 1}));
  EXPECT_FALSE(std::filesystem::exists(path + ".part"));
  std::filesystem::remove(path);
}

TEST(Checkpoint, ParametersTakeTheNetworksType) {
  const std::string path = file("graticule_type.pt");
  losses(std::nullopt, 1, "", path);
  const DataSet data = synthetic_data(13, 16, std::nullopt);
  Emulator model(load_header(path).options, data.latitudes, std::nullopt);
  load_parameters(path, model);
  for (const at::Tensor& p : model->parameters()) EXPECT_EQ(p.scalar_type(), at::kFloat);
  std::filesystem::remove(path);
}

TEST(Checkpoint, RefusesWhatIsNone) {
  EXPECT_THROW(load_header(file("graticule_missing.pt")), c10::Error);
  const std::string path = file("graticule_broken.pt");
  std::ofstream(path) << "no checkpoint";
  EXPECT_THROW(load_header(path), c10::Error);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace graticule::apps
