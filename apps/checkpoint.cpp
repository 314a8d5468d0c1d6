#include "checkpoint.hpp"

#include <torch/serialize.h>
#include <torch/torch.h>

#include <filesystem>
#include <sstream>

namespace graticule::apps {
namespace {

using torch::serialize::InputArchive;
using torch::serialize::OutputArchive;

constexpr int64_t format_version = 1;

std::string joined(const std::vector<std::string>& names) {
  std::string result;
  for (const std::string& name : names) result += name + "\n";
  return result;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> result;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) result.push_back(line);
  return result;
}

// Every number of the options, with the name it has in the file.
template <typename Options, typename Visit>
void visit_options(Options& options, const Visit& visit) {
  visit("input_channels", options.input_channels);
  visit("input_times", options.input_times);
  visit("output_channels", options.output_channels);
  visit("output_times", options.output_times);
  visit("rows", options.rows);
  visit("columns", options.columns);
  visit("channels", options.channels);
}

template <typename AnyNormalisation, typename Visit>
void visit_normalisation(AnyNormalisation& normalisation, const Visit& visit) {
  visit("input_mean", normalisation.input_mean);
  visit("input_deviation", normalisation.input_deviation);
  visit("residual_mean", normalisation.residual_mean);
  visit("residual_deviation", normalisation.residual_deviation);
}

InputArchive open(const std::string& path) {
  InputArchive archive;
  try {
    archive.load_from(path);
  } catch (const c10::Error& error) {
    TORCH_CHECK_VALUE(false, path, " is not a checkpoint: ", error.what_without_backtrace());
  }
  return archive;
}

InputArchive part(const std::string& path, const std::string& name) {
  InputArchive whole = open(path), result;
  whole.read(name, result);
  return result;
}

c10::IValue value(InputArchive& archive, const std::string& name) {
  c10::IValue result;
  archive.read(name, result);
  return result;
}

}  // namespace

void save_checkpoint(const std::string& path, const CheckpointHeader& header, const Emulator& model,
                     const torch::optim::AdamW& optimizer) {
  OutputArchive archive;
  archive.write("format", c10::IValue(format_version));
  archive.write("steps", c10::IValue(header.steps));
  archive.write("from_baseline", c10::IValue(header.normalisation.from_baseline));
  archive.write("float64", c10::IValue(header.type == at::kDouble));
  archive.write("input_names", c10::IValue(joined(header.input_names)));
  archive.write("target_names", c10::IValue(joined(header.target_names)));
  visit_options(header.options, [&](const char* name, int64_t number) { archive.write(name, c10::IValue(number)); });
  visit_normalisation(header.normalisation, [&](const char* name, const at::Tensor& t) { archive.write(name, t); });
  OutputArchive model_archive, optimizer_archive;
  model->save(model_archive);
  optimizer.save(optimizer_archive);
  archive.write("model", model_archive);
  archive.write("optimizer", optimizer_archive);
  const std::string unfinished = path + ".part";
  archive.save_to(unfinished);
  std::filesystem::rename(unfinished, path);
}

CheckpointHeader load_header(const std::string& path) {
  TORCH_CHECK_VALUE(std::filesystem::exists(path), "there is no checkpoint ", path);
  InputArchive archive = open(path);
  const int64_t version = value(archive, "format").toInt();
  TORCH_CHECK_VALUE(version == format_version, path, " has format ", version, ", this program reads ", format_version);
  CheckpointHeader header;
  header.steps = value(archive, "steps").toInt();
  header.type = value(archive, "float64").toBool() ? at::kDouble : at::kFloat;
  header.normalisation.from_baseline = value(archive, "from_baseline").toBool();
  header.input_names = lines_of(value(archive, "input_names").toStringRef());
  header.target_names = lines_of(value(archive, "target_names").toStringRef());
  visit_options(header.options, [&](const char* name, int64_t& number) { number = value(archive, name).toInt(); });
  visit_normalisation(header.normalisation, [&](const char* name, at::Tensor& t) { archive.read(name, t); });
  return header;
}

void load_parameters(const std::string& path, Emulator& model) {
  const at::ScalarType type = model->parameters().front().scalar_type();
  InputArchive archive = part(path, "model");
  model->load(archive);
  // The archive's tensors take the parameters' place, in their own type.
  model->to(type);
}

void load_optimizer(const std::string& path, torch::optim::AdamW& optimizer) {
  InputArchive archive = part(path, "optimizer");
  optimizer.load(archive);
}

}  // namespace graticule::apps
