// From the name of a model on the Hugging Face Hub to its files here: out of the cache, or downloaded into it.
#ifndef MOED_HUB_MODEL_FETCHER_H_
#define MOED_HUB_MODEL_FETCHER_H_

#include <functional>
#include <string>
#include <string_view>

#include "base/status.h"

namespace moed {

struct HubOptions {
  std::string endpoint;      // "https://huggingface.co"
  std::string token;         // of a user with access to gated models; may be empty
  std::string cache_folder;  // see hub_cache.h
  bool offline = false;      // nothing is asked of the network
  // Told how the download goes on, from the calling thread: fraction in [0, 1] and what is being done.
  std::function<void(double fraction, std::string_view what)> progress;

  // As the environment says: HF_ENDPOINT, HF_TOKEN, HF_HUB_CACHE, HF_HOME, HF_HUB_OFFLINE.
  static HubOptions FromEnvironment();
};

// Whether `model` has the form of a name on the Hub: ORG/NAME, with @REVISION (a branch, tag or commit; main where
// there is none) or with one GGUF model of several behind it, by its path, ORG/NAME/FILE.gguf, or by how its name ends,
// ORG/NAME:Q4_K_M.
bool IsHubName(std::string_view model);

// The folder, or the GGUF file, of the model in the cache, once all of it is there. What is missing is downloaded:
// broken downloads go on where they stopped, and every file is held against the size and hash that the Hub gives. Of a
// repository these are taken: safetensors with their index, config, tokenizer and chat template; where it has no
// safetensors, its GGUF model, if there is one only, with all its shards.
//
// When the network cannot be reached, what the cache has is taken, with a warning. NOT_FOUND: no such model, revision
// or file, or offline and not in the cache; UNAUTHENTICATED and PERMISSION_DENIED for gated models; INVALID_ARGUMENT
// when the repository holds no weights that moed reads, or several GGUF files; RESOURCE_EXHAUSTED when the
// disk has too little room; DATA_LOSS when a download is not what the Hub said.
absl::StatusOr<std::string> FetchModel(std::string_view model, const HubOptions& options);

}  // namespace moed

#endif  // MOED_HUB_MODEL_FETCHER_H_
