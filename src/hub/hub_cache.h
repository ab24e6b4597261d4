// The cache of models that the Hugging Face libraries share, as huggingface_hub lays it out:
//
//   models--ORG--NAME/refs/REVISION            the commit that a branch or tag stood for last
//   models--ORG--NAME/blobs/HASH               contents, by SHA-256 or git's hash; HASH.incomplete while they come
//   models--ORG--NAME/snapshots/COMMIT/FILE    a link to its blob
#ifndef MOED_HUB_HUB_CACHE_H_
#define MOED_HUB_HUB_CACHE_H_

#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace moed {

// HF_HUB_CACHE, else HF_HOME/hub, else XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub.
std::string HubCacheFolder();
// HF_TOKEN, else the file HF_TOKEN_PATH, else HF_HOME/token; empty where there is none.
std::string HubToken();
// HF_HUB_OFFLINE is 1, ON, YES or TRUE.
bool HubIsOffline();
// HF_ENDPOINT, else https://huggingface.co; without a slash at the end.
std::string HubEndpoint();

// One model of the cache. Thread-safe; processes may share it.
class HubCache {
 public:
  // `repository` is "ORG/NAME".
  HubCache(std::string cache_folder, std::string_view repository);

  const std::string& folder() const { return folder_; }
  std::string snapshot(std::string_view commit) const;
  std::string blob(std::string_view hash) const;

  // The commit that `revision` (a branch, a tag, or a commit itself) stood for last, where its snapshot is there.
  std::optional<std::string> Commit(std::string_view revision) const;
  absl::Status SetCommit(std::string_view revision, std::string_view commit) const;

  // Makes snapshots/COMMIT/file a link to the blob `hash`.
  absl::Status Link(std::string_view commit, std::string_view file, std::string_view hash) const;

  // Makes blobs/ and snapshots/COMMIT.
  absl::Status Prepare(std::string_view commit) const;

 private:
  std::string folder_;
};

// Whether `name` can be part of a path in the cache: not empty, relative, without "." and ".." and control characters.
bool IsSafeFileName(std::string_view name);

}  // namespace moed

#endif  // MOED_HUB_HUB_CACHE_H_
