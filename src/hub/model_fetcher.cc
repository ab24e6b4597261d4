#include "hub/model_fetcher.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
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
  std::string file;     // "FILE.gguf", or empty
  std::string variant;  // "Q4_K_M", or empty
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
  if (const size_t colon = model.rfind(':'); colon != std::string_view::npos) {
    name.variant = model.substr(colon + 1);
    if (!IsNamePart(name.variant)) return std::nullopt;
    model = model.substr(0, colon);
  }
  const size_t at = model.find('@');
  name.revision = at == std::string_view::npos ? kDefaultRevision : model.substr(at + 1);
  model = model.substr(0, at);
  const size_t file = model.find('/', slash + 1);
  if (file != std::string_view::npos) {
    name.file = model.substr(file + 1);
    if (!name.file.ends_with(".gguf") || !name.variant.empty()) return std::nullopt;
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
  if (!IsSafeFileName(file.name)) return DataLoss("it names a file {}", Quoted(file.name));
  file.size = entry.value("size", uint64_t{0});
  file.hash = entry.value("blobId", "");
  if (const auto lfs = entry.find("lfs"); lfs != entry.end() && lfs->is_object()) {
    file.hash = lfs->value("sha256", "");
    file.size = lfs->value("size", file.size);
    file.kind = ContentHash::kSha256;
  }
  if (!IsHash(file.hash, file.kind == ContentHash::kSha256 ? 64 : 40))
    return DataLoss("it gives {} no hash", Quoted(file.name));
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
    return DataLoss("it is not the JSON of a model: {}", Escaped(error.what()));
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

// Not the projectors of images and the calibration data that some repositories have beside the models.
bool IsGguf(std::string_view name) {
  const std::string_view file = name.substr(name.rfind('/') + 1);
  return name.ends_with(".gguf") && !file.starts_with("mmproj") && !file.starts_with("imatrix");
}

// "a-00001-of-00003.gguf" -> "a"; a file that is no shard is its own stem.
std::string GgufStem(const std::string& name) {
  constexpr size_t kEnding = std::string_view("-00001-of-00003.gguf").size();
  const bool is_shard = name.size() > kEnding && name.compare(name.size() - 14, 4, "-of-") == 0;
  return is_shard ? name.substr(0, name.size() - kEnding) : name;
}

// Whether a model of this stem is the variant: "a/b-Q4_K_M" is "q4_k_m", and not "K_M".
bool IsVariant(std::string_view stem, std::string_view variant) {
  if (stem.size() < variant.size()) return false;
  const size_t begin = stem.size() - variant.size();
  const bool same = std::equal(variant.begin(), variant.end(), stem.begin() + static_cast<std::ptrdiff_t>(begin),
                               [](unsigned char a, unsigned char b) { return std::tolower(a) == std::tolower(b); });
  return same && (begin == 0 || stem[begin - 1] == '-' || stem[begin - 1] == '.' || stem[begin - 1] == '/');
}

// Of the names of files those of one GGUF model, its first shard in front: the named one, the named variant, or the
// only one.
absl::StatusOr<std::vector<std::string>> ChooseGguf(const ModelName& name, const std::vector<std::string>& names) {
  std::vector<std::string> all;
  std::copy_if(names.begin(), names.end(), std::back_inserter(all), IsGguf);
  std::sort(all.begin(), all.end());
  const std::string list = all.empty() ? "no GGUF files" : fmt::format("{}", fmt::join(all, ", "));
  std::set<std::string> stems;
  for (const std::string& file : all) {
    const std::string stem = GgufStem(file);
    if (name.variant.empty() || IsVariant(stem.substr(0, stem.rfind(".gguf")), name.variant)) stems.insert(stem);
  }
  if (!name.file.empty()) {
    if (std::find(all.begin(), all.end(), name.file) == all.end()) {
      return NotFound("{} has no file {}; it has {}", name.repository, Quoted(name.file), list);
    }
    stems = {GgufStem(name.file)};
  }
  if (stems.empty() && !name.variant.empty()) {
    return NotFound("{} has no GGUF model that ends in {}; it has {}", name.repository, Quoted(name.variant), list);
  }
  if (stems.empty()) {
    return InvalidArgument("{} holds no weights that can be read: neither model*.safetensors nor a .gguf file",
                           name.repository);
  }
  if (stems.size() > 1) {
    return InvalidArgument("{} holds several GGUF models; name one of them, as in {}/{}: {}", name.repository,
                           name.repository, all.front(), list);
  }
  std::erase_if(all, [&](const std::string& file) { return GgufStem(file) != *stems.begin(); });
  return all;
}

// The files to fetch, the first of a GGUF model's shards in front; without a name or variant the whole model.
absl::StatusOr<std::vector<RemoteFile>> ChooseFiles(const ModelName& name, const Listing& listing) {
  std::vector<RemoteFile> chosen;
  const auto take = [&](const auto& wanted) {
    for (const RemoteFile& file : listing.files) {
      if (wanted(file.name)) chosen.push_back(file);
    }
  };
  if (name.file.empty() && name.variant.empty()) {
    take(IsSafetensors);
    if (!chosen.empty()) {
      take(IsText);
      return chosen;
    }
  }
  std::vector<std::string> names;
  for (const RemoteFile& file : listing.files) names.push_back(file.name);
  MOED_ASSIGN_OR_RETURN(names, ChooseGguf(name, names));
  for (const std::string& one : names) take([&](const std::string& file) { return file == one; });
  return chosen;
}

// ---- Fetching ----

// Text as a part of an URL; `kept` are characters that stay as they are beside letters, digits and "-._~".
std::string PercentEncode(std::string_view text, std::string_view kept) {
  std::string encoded;
  for (const char c : text) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 ||
                       std::string_view("-._~").find(c) != std::string_view::npos ||
                       kept.find(c) != std::string_view::npos;
    encoded += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return encoded;
}

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
    MOED_RETURN_IF_ERROR(CheckDisk(files));
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
    const std::string url = fmt::format("{}/api/models/{}/revision/{}?blobs=true", options_.endpoint, name_.repository,
                                        PercentEncode(name_.revision, ""));
    MOED_ASSIGN_OR_RETURN(const std::string text, client_.GetText(url, kMaxListingBytes));
    absl::StatusOr<Listing> listing = ParseListing(text);
    if (!listing.ok()) return Annotate(listing.status(), url);
    return listing;
  }

  bool IsThere(const RemoteFile& file) const {
    const std::string blob = cache_.blob(file.hash);
    std::error_code ignored;
    return fs::exists(blob, ignored) && fs::file_size(blob, ignored) == file.size;
  }

  // So that a disk too small is told now, not after an hour.
  absl::Status CheckDisk(const std::vector<RemoteFile>& files) const {
    std::map<std::string, uint64_t> by_hash;  // what files of the same content are is downloaded once
    std::error_code error;
    for (const RemoteFile& file : files) {
      if (IsThere(file)) continue;
      const std::string partial = cache_.blob(file.hash) + ".incomplete";
      const uint64_t part = fs::exists(partial, error) ? fs::file_size(partial, error) : 0;
      by_hash[file.hash] = file.size - std::min(file.size, part);
    }
    uint64_t missing = 0;
    for (const auto& [hash, bytes] : by_hash)
      missing += std::min(bytes, std::numeric_limits<uint64_t>::max() - missing);
    const fs::space_info space = fs::space(options_.cache_folder, error);
    if (error || missing <= space.available) return absl::OkStatus();
    return ResourceExhausted("{}: {} are to be downloaded, and {} are free there; HF_HUB_CACHE names another folder",
                             options_.cache_folder, HumanBytes(missing), HumanBytes(space.available));
  }

  absl::Status FetchFile(const std::string& commit, const RemoteFile& file) const {
    const std::string blob = cache_.blob(file.hash);
    std::error_code ignored;
    if (IsThere(file)) return absl::OkStatus();
    const BlobLock lock(blob + ".lock");
    if (IsThere(file)) return absl::OkStatus();
    const std::string partial = blob + ".incomplete";
    const std::string url =
        fmt::format("{}/{}/resolve/{}/{}", options_.endpoint, name_.repository, commit, PercentEncode(file.name, "/"));
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
    const bool whole = name_.file.empty() && name_.variant.empty();
    if (whole && fs::exists(folder + "/config.json", ignored)) return folder;
    std::vector<std::string> names;
    for (const auto& item : fs::recursive_directory_iterator(folder, ignored)) {
      // A link whose blob is gone is no file.
      if (item.exists(ignored) && !item.is_directory(ignored)) {
        names.push_back(item.path().lexically_relative(folder).string());
      }
    }
    const auto chosen = ChooseGguf(name_, names);
    if (!chosen.ok()) return Annotate(chosen.status(), fmt::format("{}: {}, and of the cached model", folder, because));
    return folder + "/" + chosen->front();
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
  if (!name.has_value())
    return InvalidArgument("{} is no name of a model on the Hub; it must be ORG/NAME", Quoted(model));
  return Fetcher(*std::move(name), options).Fetch();
}

}  // namespace moed
