#include "cli/model_path.h"

#include <filesystem>

#if MOED_HAVE_HUB
#include "cli/progress_bar.h"
#include "hub/model_fetcher.h"
#endif

namespace moed {

absl::StatusOr<std::string> ResolveModelPath(const std::string& model) {
  std::error_code ignored;
  if (std::filesystem::exists(model, ignored)) return model;
#if MOED_HAVE_HUB
  if (!IsHubName(model)) return model;
  HubOptions options = HubOptions::FromEnvironment();
  ProgressBar bar;
  options.progress = [&bar](double fraction, std::string_view what) { bar.Update(fraction, what); };
  absl::StatusOr<std::string> path = FetchModel(model, options);
  if (!path.ok())
    return Annotate(path.status(), fmt::format("{}: there is no such folder, and as a model on the Hub", model));
  return path;
#else
  return model;
#endif
}

}  // namespace moed
