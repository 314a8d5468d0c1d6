// What a training run has shown, as a table for people and as lines of JSON for programs.
#pragma once

#include <cstdint>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "evaluation.hpp"
#include "exactness_check.hpp"
#include "pictures.hpp"
#include "training.hpp"

namespace graticule::apps {

/// The least, the largest and the sum over the ranks.
struct OverRanks {
  double least = 0, most = 0, sum = 0;
};

struct Report {
  int ranks = 1;
  int64_t rows = 0, columns = 0;
  int64_t parameters = 0;
  int64_t steps = 0;  ///< of this run
  double data_seconds = 0, training_seconds = 0;
  std::vector<std::string> targets, units;
  std::string baseline;
  int64_t test_samples = 0;
  Skill skill;
  OverRanks peak_bytes;                 ///< of resident memory
  std::optional<OverRanks> step_bytes;  ///< sent to other ranks, a training step; none where there was no step
  std::optional<Exactness> exactness;   ///< none on one rank: there is no cut
  double most_inexact = 0;              ///< the check's bound
  std::vector<FieldPictures> pictures;
  std::string checkpoint;
};

/// Several lines, each with its end.
std::string to_text(const Report& report);

/// metrics.jsonl: a line of JSON a step, the report last. Each line is written out at once. Throws std::runtime_error
/// where it cannot be.
class MetricsFile {
 public:
  explicit MetricsFile(const std::string& path);
  void add(const TrainingStep& step);
  void add(const Report& report);

 private:
  void write(const std::string& line);

  std::string path_;
  std::ofstream file_;
};

}  // namespace graticule::apps
