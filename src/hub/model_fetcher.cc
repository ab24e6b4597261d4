#include "hub/model_fetcher.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "base/logging.h"
#include "base/text.h"
#include "hub/content_hash.h"
#include "hub/http_client.h"
#include "hub/hub_cache.h"

namespace moed {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxListingBytes = size_t{32} << 20;
constexpr std::string_view kDefaultRevision = "main";

struct ModelName {
  std::string repository;  // "ORG/NAME"
  std::string revision;
  std::string file;  // "FILE.gguf", or empty
};

bool IsNamePart(std::string_view part) {
  if (part.empty() || part.size() > 96 || part.front() == '.' || part.front() == '-') return false;
  return std::all_of(part.begin(), part.end(),
                     [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.'; });
}

std::optional<ModelName> ParseName(std::string_view model) {
  const size_t slash = model.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  ModelName name;
  const size_t at = model.find('@');
  name.revision = at == std::string_view::npos ? kDefaultRevision : model.substr(at + 1);
  model = model.substr(0, at);
  const size_t file = model.find('/', slash + 1);
  if (file != std::string_view::npos) {
    name.file = model.substr(file + 1);
    if (!name.file.ends_with(".gguf")) return std::nullopt;
    model = model.substr(0, file);
  }
  name.repository = model;
  if (slash >= model.size()) return std::nullopt;
  const bool good = IsNamePart(model.substr(0, slash)) && IsNamePart(model.substr(slash + 1)) &&
                    IsSafeFileName(name.revision) && (name.file.empty() || IsSafeFileName(name.file));
  return good ? std::optional(name) : std::nullopt;
}

// A file of a repository, as the Hub lists it.
struct RemoteFile {
  std::string name;
  uint64_t size = 0;
  std::string hash;  // which its blob is named by
  ContentHash kind = ContentHash::kGitBlob;
};

struct Listing {
  std::string commit;
  std::vector<RemoteFile> files;
};

bool IsHash(const std::string& text, size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

absl::StatusOr<RemoteFile> ParseFile(const nlohmann::json& entry) {
  RemoteFile file;
  file.name = entry.value("rfilename", "");
  if (!IsSafeFileName(file.name)) return DataLoss("it names a file {:?}", file.name.substr(0, 200));
  file.size = entry.value("size", uint64_t{0});
  file.hash = entry.value("blobId", "");
  if (const auto lfs = entry.find("lfs"); lfs != entry.end() && lfs->is_object()) {
    file.hash = lfs->value("sha256", "");
    file.size = lfs->value("size", file.size);
    file.kind = ContentHash::kSha256;
  }
  if (!IsHash(file.hash, file.kind == ContentHash::kSha256 ? 64 : 40))
    return DataLoss("it gives {:?} no hash", file.name);
  return file;
}

// The answer of /api/models/ORG/NAME/revision/REVISION?blobs=true.
absl::StatusOr<Listing> ParseListing(const std::string& text) {
  try {
    const nlohmann::json json = nlohmann::json::parse(text);
    Listing listing;
    listing.commit = json.at("sha").get<std::string>();
    if (!IsHash(listing.commit, 40)) return DataLoss("its sha is no commit");
    for (const nlohmann::json& entry : json.at("siblings")) {
      MOED_ASSIGN_OR_RETURN(RemoteFile file, ParseFile(entry));
      listing.files.push_back(std::move(file));
    }
    return listing;
  } catch (const nlohmann::json::exception& error) {
    return DataLoss("it is not the JSON of a model: {}", error.what());
  }
}

// ---- What of a repository is needed ----

bool IsText(std::string_view name) {
  constexpr std::string_view kNames[] = {"config.json",           "generation_config.json",  "tokenizer.json",
                                         "tokenizer_config.json", "special_tokens_map.json", "chat_template.json",
                                         "chat_template.jinja",   "tokenizer.model"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames) ||
         (name.starts_with("additional_chat_templates/") && name.ends_with(".jinja")) ||
         (name.ends_with(".tiktoken") && name.find('/') == std::string_view::npos);
}

// Not "consolidated.safetensors", which some repositories have beside them.
bool IsSafetensors(std::string_view name) {
  return name.starts_with("model") && name.find('/') == std::string_view::npos &&
         (name.ends_with(".safetensors") || name == "model.safetensors.index.json");
}

bool IsGguf(std::string_view name) { return name.ends_with(".gguf"); }

// "a-00001-of-00003.gguf" -> "a"; a file that is no shard is its own stem.
std::string GgufStem(const std::string& name) {
  constexpr size_t kEnding = std::string_view("-00001-of-00003.gguf").size();
  const bool is_shard = name.size() > kEnding && name.compare(name.size() - 14, 4, "-of-") == 0;
  return is_shard ? name.substr(0, name.size() - kEnding) : name;
}

// The files to fetch, the first of a GGUF model's shards in front; `name.file` empty asks for the whole model.
absl::StatusOr<std::vector<RemoteFile>> ChooseFiles(const ModelName& name, const Listing& listing) {
  std::vector<RemoteFile> chosen;
  const auto take = [&](const auto& wanted) {
    for (const RemoteFile& file : listing.files) {
      if (wanted(file.name)) chosen.push_back(file);
    }
  };
  if (name.file.empty()) {
    take(IsSafetensors);
    if (!chosen.empty()) {
      take(IsText);
      return chosen;
    }
  }
  std::set<std::string> stems;
  std::vector<std::string> all;
  for (const RemoteFile& file : listing.files) {
    if (!IsGguf(file.name)) continue;
    stems.insert(GgufStem(file.name));
    all.push_back(file.name);
  }
  if (!name.file.empty()) {
    if (std::find(all.begin(), all.end(), name.file) == all.end()) {
      return NotFound("{} has no file {:?}; it has {}", name.repository, name.file,
                      all.empty() ? "no GGUF files" : fmt::format("{}", fmt::join(all, ", ")));
    }
    stems = {GgufStem(name.file)};
  }
  if (stems.empty()) {
    return InvalidArgument("{} holds no weights that can be read: neither model*.safetensors nor a .gguf file",
                           name.repository);
  }
  if (stems.size() > 1) {
    return InvalidArgument("{} holds several GGUF models; name one of them, as in {}/{}: {}", name.repository,
                           name.repository, all.front(), fmt::join(all, ", "));
  }
  take([&](const std::string& file) { return IsGguf(file) && GgufStem(file) == *stems.begin(); });
  std::sort(chosen.begin(), chosen.end(), [](const RemoteFile& a, const RemoteFile& b) { return a.name < b.name; });
  return chosen;
}

// ---- Fetching ----

// Holds off other processes that fetch the same blob.
class BlobLock {
 public:
  explicit BlobLock(const std::string& path) : fd_(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    if (fd_ >= 0) flock(fd_, LOCK_EX);
  }
  ~BlobLock() {
    if (fd_ >= 0) close(fd_);
  }
  BlobLock(const BlobLock&) = delete;
  BlobLock& operator=(const BlobLock&) = delete;

 private:
  int fd_;
};

class Fetcher {
 public:
  Fetcher(ModelName name, const HubOptions& options)
      : name_(std::move(name)),
        options_(options),
        client_(options.token),
        cache_(options.cache_folder, name_.repository) {}

  absl::StatusOr<std::string> Fetch() {
    if (options_.offline) return FromCache(absl::OkStatus());
    absl::StatusOr<Listing> listing = List();
    if (absl::IsUnavailable(listing.status())) return FromCache(listing.status());
    MOED_RETURN_IF_ERROR(listing.status());
    MOED_ASSIGN_OR_RETURN(const std::vector<RemoteFile> files, ChooseFiles(name_, *listing));
    MOED_RETURN_IF_ERROR(cache_.Prepare(listing->commit));
    for (const RemoteFile& file : files) total_ += file.size;
    for (const RemoteFile& file : files) {
      MOED_RETURN_IF_ERROR(FetchFile(listing->commit, file));
      MOED_RETURN_IF_ERROR(cache_.Link(listing->commit, file.name, file.hash));
      done_ += file.size;
    }
    // Last, so that a reference never leads to a model that is not whole.
    MOED_RETURN_IF_ERROR(cache_.SetCommit(name_.revision, listing->commit));
    const std::string folder = cache_.snapshot(listing->commit);
    return IsGguf(files.front().name) ? folder + "/" + files.front().name : folder;
  }

 private:
  absl::StatusOr<Listing> List() const {
    const std::string url =
        fmt::format("{}/api/models/{}/revision/{}?blobs=true", options_.endpoint, name_.repository, name_.revision);
    MOED_ASSIGN_OR_RETURN(const std::string text, client_.GetText(url, kMaxListingBytes));
    absl::StatusOr<Listing> listing = ParseListing(text);
    if (!listing.ok()) return Annotate(listing.status(), url);
    return listing;
  }

  absl::Status FetchFile(const std::string& commit, const RemoteFile& file) const {
    const std::string blob = cache_.blob(file.hash);
    std::error_code ignored;
    const auto is_there = [&] { return fs::exists(blob, ignored) && fs::file_size(blob, ignored) == file.size; };
    if (is_there()) return absl::OkStatus();
    const BlobLock lock(blob + ".lock");
    if (is_there()) return absl::OkStatus();
    const std::string partial = blob + ".incomplete";
    const std::string url = fmt::format("{}/{}/resolve/{}/{}", options_.endpoint, name_.repository, commit, file.name);
    const std::string what = fmt::format("downloading {} ({})", file.name, HumanBytes(file.size));
    MOED_RETURN_IF_ERROR(client_.Download(url, partial, file.size, [&](uint64_t bytes) {
      if (options_.progress) options_.progress(static_cast<double>(done_ + bytes) / static_cast<double>(total_), what);
    }));
    MOED_ASSIGN_OR_RETURN(const std::string hash, HashFile(partial, file.kind));
    if (hash != file.hash) {
      fs::remove(partial, ignored);
      return DataLoss("{}: the download has the hash {}, the Hub says {}; it is thrown away", url, hash, file.hash);
    }
    std::error_code error;
    fs::rename(partial, blob, error);
    if (error) return absl::ErrnoToStatus(error.value(), fmt::format("{}: cannot rename", partial));
    fs::remove(blob + ".lock", ignored);
    return absl::OkStatus();
  }

  // `reason`: why the network is not asked; OK when that is the user's wish.
  absl::StatusOr<std::string> FromCache(const absl::Status& reason) const {
    const std::string because =
        reason.ok() ? "HF_HUB_OFFLINE is set" : fmt::format("the Hub cannot be reached ({})", Message(reason));
    const std::optional<std::string> commit = cache_.Commit(name_.revision);
    if (!commit.has_value()) {
      return NotFound("{} at {} is not in the cache {}, and {}", name_.repository, name_.revision,
                      options_.cache_folder, because);
    }
    if (!reason.ok()) MOED_LOG_WARNING("{}; taking {} from the cache", because, name_.repository);
    const std::string folder = cache_.snapshot(*commit);
    std::error_code ignored;
    if (name_.file.empty() && fs::exists(folder + "/config.json", ignored)) return folder;
    std::string file = name_.file;
    if (file.empty()) {
      std::set<std::string> found;
      for (const auto& item : fs::directory_iterator(folder, ignored)) {
        if (IsGguf(item.path().string())) found.insert(item.path().filename().string());
      }
      if (!found.empty() && GgufStem(*found.begin()) == GgufStem(*found.rbegin())) file = *found.begin();
    }
    if (!file.empty() && fs::exists(folder + "/" + file, ignored)) return folder + "/" + file;
    return NotFound("{}: the cached model has {}, and {}", folder,
                    file.empty() ? "no config.json and not one GGUF file" : fmt::format("no file {:?}", file), because);
  }

  const ModelName name_;
  const HubOptions& options_;
  const HttpClient client_;
  const HubCache cache_;
  uint64_t total_ = 0, done_ = 0;  // bytes
};

}  // namespace

HubOptions HubOptions::FromEnvironment() {
  return {.endpoint = HubEndpoint(), .token = HubToken(), .cache_folder = HubCacheFolder(), .offline = HubIsOffline()};
}

bool IsHubName(std::string_view model) { return ParseName(model).has_value(); }

absl::StatusOr<std::string> FetchModel(std::string_view model, const HubOptions& options) {
  std::optional<ModelName> name = ParseName(model);
  if (!name.has_value()) return InvalidArgument("{:?} is no name of a model on the Hub; it must be ORG/NAME", model);
  return Fetcher(*std::move(name), options).Fetch();
}

}  // namespace moed
