// The models of this server, by name.
#ifndef MOED_SERVING_MODEL_REGISTRY_H_
#define MOED_SERVING_MODEL_REGISTRY_H_

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "serving/served_model.h"

namespace moed {

enum class ModelState {
  kLoading,
  kReady,
  kDraining,  // finishes what it has and takes no more
};

// Thread-safe.
class ModelRegistry {
 public:
  struct Entry {
    std::string name;
    ModelState state = ModelState::kLoading;
    std::shared_ptr<const ServedModel> model;  // null while loading
  };

  // A name that will be served soon: until then its requests get UNAVAILABLE instead of NOT_FOUND.
  void SetLoading(std::string_view name);
  void SetReady(std::shared_ptr<const ServedModel> model);
  void SetDraining(std::string_view name);

  // The model for a request. An empty name means the only model. NOT_FOUND names the models that there are; UNAVAILABLE
  // while it loads or drains.
  absl::StatusOr<std::shared_ptr<const ServedModel>> Find(std::string_view name) const;

  // By name.
  std::vector<Entry> List() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, Entry, std::less<>> models_;
};

}  // namespace moed

#endif  // MOED_SERVING_MODEL_REGISTRY_H_
