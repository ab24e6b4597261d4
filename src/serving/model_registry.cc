#include "serving/model_registry.h"

#include <utility>

#include "base/text.h"

namespace moed {

void ModelRegistry::SetLoading(std::string_view name) {
  std::lock_guard lock(mutex_);
  models_[std::string(name)] = {.name = std::string(name), .state = ModelState::kLoading, .model = nullptr};
}

void ModelRegistry::SetReady(std::shared_ptr<const ServedModel> model) {
  std::lock_guard lock(mutex_);
  const std::string name = model->name();
  models_[name] = {.name = name, .state = ModelState::kReady, .model = std::move(model)};
}

void ModelRegistry::SetDraining(std::string_view name) {
  std::lock_guard lock(mutex_);
  const auto found = models_.find(name);
  if (found != models_.end()) found->second.state = ModelState::kDraining;
}

absl::StatusOr<std::shared_ptr<const ServedModel>> ModelRegistry::Find(std::string_view name) const {
  std::lock_guard lock(mutex_);
  const auto found = name.empty() && models_.size() == 1 ? models_.begin() : models_.find(name);
  if (found == models_.end()) {
    std::string names;
    for (const auto& [known, entry] : models_) names += (names.empty() ? "" : ", ") + known;
    if (name.empty()) return InvalidArgument("model is empty; name one of: {}", names);
    return NotFound("there is no model {}; this server has: {}", Quoted(name), names);
  }
  const Entry& entry = found->second;
  switch (entry.state) {
    case ModelState::kLoading:
      return Unavailable("model \"{}\" is loading; try again soon", entry.name);
    case ModelState::kDraining:
      return Unavailable("model \"{}\" is draining and takes no new requests", entry.name);
    case ModelState::kReady:
      break;
  }
  return entry.model;
}

std::vector<ModelRegistry::Entry> ModelRegistry::List() const {
  std::lock_guard lock(mutex_);
  std::vector<Entry> entries;
  for (const auto& [name, entry] : models_) entries.push_back(entry);
  return entries;
}

}  // namespace moed
