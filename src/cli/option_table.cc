#include "cli/option_table.h"

#include <yaml-cpp/yaml.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>

#include "base/text.h"

namespace moed {
namespace {

// A configuration is a page; what is larger is some other file.
constexpr size_t kMaxYamlBytes = 1 << 20;

// A scalar as YAML writes it: quoted where it could be read as something else.
std::string YamlScalar(const std::string& value) {
  YAML::Emitter emitter;
  emitter << value;
  return emitter.c_str();
}

absl::StatusOr<YAML::Node> ParseYaml(std::string_view text, std::string_view name) {
  if (text.size() > kMaxYamlBytes) {
    return InvalidArgument("{} has {} bytes; a configuration has at most {}", name, text.size(), kMaxYamlBytes);
  }
  try {
    return YAML::Load(std::string(text));
  } catch (const YAML::Exception& error) {
    return InvalidArgument("{}:{}: {}", name, error.mark.line + 1, error.msg);
  }
}

}  // namespace

std::string OptionTable::Row::flag() const {
  std::string flag = "--" + key;
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

void OptionTable::AddFlags(CLI::App* command) {
  for (const Row& row : rows_) {
    const auto given = [this, key = row.key](const std::string& text) { given_flags_[key] = text; };
    CLI::Option* option = nullptr;
    if (row.type == "BOOL") {
      const std::string no_flag = "--no-" + row.flag().substr(2);
      option = command->add_flag_callback(
          row.flag(), [given] { given("true"); }, fmt::format("{} ({} turns it off)", row.help, no_flag));
      command->add_flag_callback(no_flag, [given] { given("false"); })->group("");  // not in the help again
    } else {
      option = command->add_option_function<std::string>(row.flag(), given, row.help)->type_name(row.type);
    }
    option->default_str(row.print())->group(row.group);
  }
}

absl::Status OptionTable::ApplyYamlFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return NotFound("{}: there is no such file, or it cannot be read", path);
  std::string text(kMaxYamlBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  return ApplyYaml(text, path);
}

absl::Status OptionTable::ApplyYaml(std::string_view text, std::string_view name) {
  MOED_ASSIGN_OR_RETURN(const YAML::Node root, ParseYaml(text, name));
  if (root.IsNull()) return absl::OkStatus();
  if (!root.IsMap()) return InvalidArgument("{}: the file must map keys to values, like \"port: 50051\"", name);
  std::set<std::string> seen;
  for (const auto& entry : root) {
    const int line = entry.first.Mark().line + 1;
    if (!entry.first.IsScalar()) return InvalidArgument("{}:{}: a key must be a word", name, line);
    const std::string& key = entry.first.Scalar();
    const Row* row = Find(key);
    if (row == nullptr) {
      return InvalidArgument("{}:{}: unknown key \"{}\"; did you mean \"{}\"?", name, line, key, NearestKey(key));
    }
    if (!seen.insert(key).second) return InvalidArgument("{}:{}: {} is given twice", name, line, key);
    if (!entry.second.IsScalar()) {
      return InvalidArgument("{}:{}: {} must be a single value ({})", name, line, key, row->type);
    }
    MOED_RETURN_IF_ERROR(Annotate(row->parse(entry.second.Scalar()), fmt::format("{}:{}: {}", name, line, key)));
  }
  return absl::OkStatus();
}

absl::Status OptionTable::ApplyFlags() {
  for (const auto& [key, text] : given_flags_) {
    const Row* row = Find(key);
    MOED_RETURN_IF_ERROR(Annotate(row->parse(text), row->flag()));
  }
  return absl::OkStatus();
}

std::string OptionTable::PrintYaml() const {
  std::ostringstream out;
  std::string group;
  for (const Row& row : rows_) {
    if (row.group != group) {
      out << (group.empty() ? "" : "\n") << "# " << row.group << "\n";
      group = row.group;
    }
    out << row.key << ": " << YamlScalar(row.print()) << "\n";
  }
  return out.str();
}

const OptionTable::Row* OptionTable::Find(std::string_view key) const {
  const auto found = std::find_if(rows_.begin(), rows_.end(), [key](const Row& row) { return row.key == key; });
  return found == rows_.end() ? nullptr : &*found;
}

std::string_view OptionTable::NearestKey(std::string_view key) const {
  std::vector<std::string_view> keys;
  for (const Row& row : rows_) keys.push_back(row.key);
  return NearestWord(key, keys);
}

}  // namespace moed
