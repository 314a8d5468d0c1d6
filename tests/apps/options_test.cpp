// Command lines: what is understood and what is refused.
#include "options.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <set>

#include "train_settings.hpp"

namespace graticule::apps {
namespace {

TrainSettings parsed(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "train");
  TrainSettings settings;
  EXPECT_TRUE(parse_options(arguments, train_options(settings)));
  check_settings(settings);
  return settings;
}

std::string error_of(const std::vector<std::string>& arguments) {
  try {
    parsed(arguments);
  } catch (const OptionError& error) {
    return error.what();
  }
  return "";
}

TEST(Options, AreUnderstood) {
  const TrainSettings s =
      parsed({"--out", "folder",  "--rows=13", "--columns",       "16",   "--runs",         "2", "--days",
              "3.5",   "--steps", "0",         "--batch",         "3",    "--seed",         "5", "--channels",
              "16",    "--dtype", "float64",   "--learning-rate", "1e-4", "--require-skill"});
  EXPECT_EQ(s.out, "folder");
  EXPECT_EQ(s.simulation.rows, 13);
  EXPECT_EQ(s.simulation.columns, 16);
  EXPECT_EQ(s.simulation.runs, 2);
  EXPECT_EQ(s.simulation.last_day, 3.5);
  EXPECT_EQ(s.steps, std::optional<int64_t>(0));
  EXPECT_EQ(s.batch, 3);
  EXPECT_EQ(s.seed, 5);
  EXPECT_EQ(s.channels, std::optional<int64_t>(16));
  EXPECT_EQ(s.float64, std::optional<bool>(true));
  EXPECT_EQ(s.learning_rate, 1e-4);
  EXPECT_TRUE(s.require_skill);
}

TEST(Options, ListsAreCutAtCommas) {
  const TrainSettings s = parsed({"--out", "o", "--data", "f.nc", "--inputs", "z", "--targets", "u,v"});
  EXPECT_EQ(s.inputs, std::vector<std::string>{"z"});
  EXPECT_EQ(s.targets, (std::vector<std::string>{"u", "v"}));
}

TEST(Options, DefaultsStayWhereNothingIsSaid) {
  const TrainSettings s = parsed({"--out", "o"});
  EXPECT_EQ(s.simulation.rows, SimulationOptions{}.rows);
  EXPECT_FALSE(s.steps.has_value());
  EXPECT_FALSE(s.float64.has_value());
  EXPECT_FALSE(s.require_skill);
}

TEST(Options, WrongOnesNameWhatIsWrong) {
  EXPECT_EQ(error_of({"--out", "o", "--foo"}), "unknown option --foo");
  EXPECT_EQ(error_of({"--out", "o", "-x"}), "unknown option -x");
  EXPECT_EQ(error_of({"--out", "o", "extra"}), "unexpected argument 'extra'");
  EXPECT_EQ(error_of({"--out"}), "--out needs a value");
  EXPECT_EQ(error_of({"--out", "o", "--batch", "0"}), "--batch: expected a whole number of at least 1, got '0'");
  EXPECT_EQ(error_of({"--out", "o", "--steps", "3x"}), "--steps: expected a whole number of at least 0, got '3x'");
  EXPECT_EQ(error_of({"--out", "o", "--learning-rate", "-1"}), "--learning-rate: expected a positive number, got '-1'");
  EXPECT_EQ(error_of({"--out", "o", "--learning-rate", "nan"}),
            "--learning-rate: expected a positive number, got 'nan'");
  EXPECT_EQ(error_of({"--out", "o", "--dtype", "half"}), "--dtype: expected float32 or float64, got 'half'");
  EXPECT_EQ(error_of({"--out", "o", "--channels", "12"}), "--channels: expected a multiple of 8, got 12");
  EXPECT_EQ(error_of({"--out", "o", "--columns", "15"}), "--columns: expected an even number, got 15");
  EXPECT_EQ(error_of({"--out", "o", "--data", "f", "--inputs", "z,,u", "--targets", "v"}),
            "--inputs: expected names with commas between them, got 'z,,u'");
}

TEST(Options, ThatDoNotGoTogetherAreRefused) {
  EXPECT_EQ(error_of({"--steps", "3"}), "--out is required");
  EXPECT_EQ(error_of({"--out", "o", "--steps", "3", "--epochs", "1"}), "--steps and --epochs exclude each other");
  EXPECT_EQ(error_of({"--out", "o", "--inputs", "z"}), "--inputs and --targets belong to --data");
  EXPECT_EQ(error_of({"--out", "o", "--data", "f"}), "--data needs --inputs and --targets");
  EXPECT_NE(error_of({"--out", "o", "--days", "1"}).find("--days: expected at least"), std::string::npos);
}

TEST(Options, HelpComesBeforeEverythingElse) {
  TrainSettings settings;
  const std::vector<Option> options = train_options(settings);
  EXPECT_FALSE(parse_options({"train", "--batch", "0", "--help"}, options));
  EXPECT_EQ(settings.batch, TrainSettings{}.batch);
}

TEST(Options, HelpNamesEachOnce) {
  TrainSettings settings;
  const std::vector<Option> options = train_options(settings);
  const std::string help = describe_options(options);
  std::set<std::string> names;
  for (const Option& option : options) {
    EXPECT_TRUE(names.insert(option.name).second) << option.name;
    EXPECT_NE(help.find("  --" + option.name + " "), std::string::npos) << option.name;
    EXPECT_FALSE(option.help.empty()) << option.name;
  }
}

}  // namespace
}  // namespace graticule::apps
