#include "options.hpp"

#include <getopt.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>
#include <utility>

namespace graticule::apps {
namespace {

constexpr int first_code = 256;  // beyond every character

[[noreturn]] void reject(const std::string& option, const std::string& expected, const std::string& got) {
  throw OptionError("--" + option + ": expected " + expected + ", got '" + got + "'");
}

template <typename T>
bool parse_number(const std::string& text, T& number) {
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, number);
  return result.ec == std::errc() && result.ptr == end;
}

std::vector<option> long_options(const std::vector<Option>& options) {
  std::vector<option> result;
  for (size_t i = 0; i < options.size(); ++i) {
    const int has_value = options[i].value.empty() ? no_argument : required_argument;
    result.push_back({options[i].name.c_str(), has_value, nullptr, first_code + static_cast<int>(i)});
  }
  result.push_back({"help", no_argument, nullptr, 'h'});
  result.push_back({nullptr, 0, nullptr, 0});
  return result;
}

}  // namespace

Option text_option(std::string name, std::string value, std::string help, std::string& target) {
  return {std::move(name), std::move(value), std::move(help), [&target](const std::string& text) { target = text; }};
}

Option list_option(std::string name, std::string value, std::string help, std::vector<std::string>& target) {
  return {name, std::move(value), std::move(help), [name, &target](const std::string& text) {
            target.clear();
            std::istringstream stream(text);
            for (std::string item; std::getline(stream, item, ',');) {
              if (item.empty()) reject(name, "names with commas between them", text);
              target.push_back(item);
            }
            if (target.empty()) reject(name, "names with commas between them", text);
          }};
}

Option integer_option(std::string name, std::string value, std::string help, int64_t least,
                      std::function<void(int64_t)> set) {
  return {name, std::move(value), std::move(help), [name, least, set = std::move(set)](const std::string& text) {
            int64_t number = 0;
            if (!parse_number(text, number) || number < least) {
              reject(name, "a whole number of at least " + std::to_string(least), text);
            }
            set(number);
          }};
}

Option positive_option(std::string name, std::string value, std::string help, std::function<void(double)> set) {
  return {name, std::move(value), std::move(help), [name, set = std::move(set)](const std::string& text) {
            double number = 0;
            if (!parse_number(text, number) || !std::isfinite(number) || number <= 0) {
              reject(name, "a positive number", text);
            }
            set(number);
          }};
}

Option flag_option(std::string name, std::string help, bool& target) {
  return {std::move(name), "", std::move(help), [&target](const std::string&) { target = true; }};
}

bool parse_options(const std::vector<std::string>& arguments, const std::vector<Option>& options) {
  std::vector<std::string> copies = arguments;
  std::vector<char*> pointers;
  for (std::string& copy : copies) pointers.push_back(copy.data());
  pointers.push_back(nullptr);
  const int count = static_cast<int>(copies.size());
  const std::vector<option> known = long_options(options);

  std::vector<std::pair<const Option*, std::string>> given;
  opterr = 0;
  optind = 0;  // 0 and not 1: glibc then forgets what it kept from an earlier command line
  for (int code = 0; (code = getopt_long(count, pointers.data(), "+:h", known.data(), nullptr)) != -1;) {
    if (code == 'h') return false;
    const std::string& argument = arguments[static_cast<size_t>(std::clamp(optind - 1, 0, count - 1))];
    if (code == ':') throw OptionError(argument + " needs a value");
    if (code == '?') throw OptionError("unknown option " + argument);
    given.emplace_back(&options[static_cast<size_t>(code - first_code)], optarg == nullptr ? "" : optarg);
  }
  if (optind < count) throw OptionError("unexpected argument '" + arguments[static_cast<size_t>(optind)] + "'");
  for (const auto& [option, value] : given) option->set(value);
  return true;
}

std::string describe_options(const std::vector<Option>& options) {
  constexpr size_t help_column = 28;
  std::string result;
  for (const Option& option : options) {
    std::string line = "  --" + option.name + (option.value.empty() ? "" : " " + option.value);
    line.resize(std::max(help_column, line.size() + 2), ' ');
    std::istringstream help(option.help);
    for (std::string text; std::getline(help, text); line = std::string(help_column, ' ')) result += line + text + "\n";
  }
  return result + "  --help" + std::string(help_column - 8, ' ') + "show this and end\n";
}

}  // namespace graticule::apps
