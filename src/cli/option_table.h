// The options of the program: one row each, from which its flag, its key in a YAML file and its help are made.
#ifndef MOED_CLI_OPTION_TABLE_H_
#define MOED_CLI_OPTION_TABLE_H_

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "cli/option_value.h"

namespace CLI {
class App;
}  // namespace CLI

namespace moed {

// A row refers to a field of an options struct, where its default is; the struct outlives the table. A field
// `max_num_seqs` is the key `max_num_seqs` in YAML and the flag `--max-num-seqs`.
class OptionTable {
 public:
  // Rows that follow belong to this group of the help.
  void BeginGroup(std::string_view title) { group_ = title; }

  template <typename T>
  void Add(std::string_view key, T* field, std::string_view help) {
    rows_.push_back({.key = std::string(key),
                     .group = group_,
                     .help = std::string(help),
                     .type = std::string(OptionTypeName(*field)),
                     .parse = [field](std::string_view text) { return ParseOption(text, field); },
                     .print = [field] { return PrintOption(*field); }});
  }

  // Adds the flags to a command. What is given there is kept until ApplyFlags().
  void AddFlags(CLI::App* command);

  // Sets the fields from a YAML file whose top level maps keys to scalars. INVALID_ARGUMENT, with file and line, for an
  // unknown key (naming the nearest known one), a key given twice, or a value of the wrong type; NOT_FOUND for a
  // missing file.
  absl::Status ApplyYamlFile(const std::string& path);
  // The same from text; `name` is for messages.
  absl::Status ApplyYaml(std::string_view text, std::string_view name);

  // Sets the fields whose flags were given. Call it last, so that a flag overrides the file.
  absl::Status ApplyFlags();

  // All options with the values that hold now, as a YAML file that ApplyYaml() takes.
  std::string PrintYaml() const;

 private:
  struct Row {
    std::string key;
    std::string group;
    std::string help;
    std::string type;
    std::function<absl::Status(std::string_view)> parse;
    std::function<std::string()> print;

    std::string flag() const;
  };

  const Row* Find(std::string_view key) const;
  std::string_view NearestKey(std::string_view key) const;

  std::string group_;
  std::vector<Row> rows_;
  std::map<std::string, std::string> given_flags_;  // key to text
};

}  // namespace moed

#endif  // MOED_CLI_OPTION_TABLE_H_
