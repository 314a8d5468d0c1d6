// Options of the command line, from one table that gives both the parsing and the help.
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace graticule::apps {

/// What is wrong with the command line, for whoever typed it.
class OptionError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Option {
  std::string name;                             ///< without the dashes
  std::string value;                            ///< what its value is called in the help; empty for a flag
  std::string help;                             ///< one line or more
  std::function<void(const std::string&)> set;  ///< gets the value; throws OptionError where it is wrong
};

/// An option that stores its value in `target`, which must outlive the table.
Option text_option(std::string name, std::string value, std::string help, std::string& target);
Option list_option(std::string name, std::string value, std::string help, std::vector<std::string>& target);
Option integer_option(std::string name, std::string value, std::string help, int64_t least,
                      std::function<void(int64_t)> set);
Option positive_option(std::string name, std::string value, std::string help, std::function<void(double)> set);
Option flag_option(std::string name, std::string help, bool& target);

/// Parses arguments[1...]; arguments[0] is the command's name. Calls `set` of each option that is given, in order.
/// --help is known without being in the table: returns false where it is asked for, and then nothing else counts.
/// Throws OptionError. Not for several threads at once: getopt_long keeps its state in globals.
bool parse_options(const std::vector<std::string>& arguments, const std::vector<Option>& options);

/// The table as text, an option to a line or more.
std::string describe_options(const std::vector<Option>& options);

}  // namespace graticule::apps
