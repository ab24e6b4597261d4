#include "hub/hub_cache.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace moed {
namespace {

namespace fs = std::filesystem;

// Empty where it is not set.
std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string HubHome() {
  if (std::string home = Variable("HF_HOME"); !home.empty()) return home;
  if (const std::string cache = Variable("XDG_CACHE_HOME"); !cache.empty()) return cache + "/huggingface";
  return Variable("HOME") + "/.cache/huggingface";
}

// A file's first word; empty where it cannot be read.
std::string FirstWord(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

absl::Status ToStatus(const std::error_code& error, const std::string& path) {
  if (!error) return absl::OkStatus();
  return absl::ErrnoToStatus(error.value(), fmt::format("{}: cannot write", path));
}

}  // namespace

std::string HubCacheFolder() {
  const std::string cache = Variable("HF_HUB_CACHE");
  return cache.empty() ? HubHome() + "/hub" : cache;
}

std::string HubToken() {
  if (std::string token = Variable("HF_TOKEN"); !token.empty()) return token;
  const std::string path = Variable("HF_TOKEN_PATH");
  return FirstWord(path.empty() ? HubHome() + "/token" : path);
}

bool HubIsOffline() {
  std::string value = Variable("HF_HUB_OFFLINE");
  std::transform(value.begin(), value.end(), value.begin(), [](unsigned char c) { return std::toupper(c); });
  return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
}

std::string HubEndpoint() {
  std::string endpoint = Variable("HF_ENDPOINT");
  if (endpoint.empty()) endpoint = "https://huggingface.co";
  while (endpoint.ends_with('/')) endpoint.pop_back();
  return endpoint;
}

bool IsSafeFileName(std::string_view name) {
  if (name.empty() || name.front() == '/' || name.find('\\') != std::string_view::npos) return false;
  if (std::any_of(name.begin(), name.end(), [](unsigned char c) { return std::iscntrl(c) != 0; })) return false;
  const fs::path path(name);
  return std::none_of(path.begin(), path.end(),
                      [](const fs::path& part) { return part.empty() || part == "." || part == ".."; });
}

HubCache::HubCache(std::string cache_folder, std::string_view repository) : folder_(std::move(cache_folder)) {
  folder_ += "/models--";
  for (const char c : repository) folder_ += c == '/' ? std::string("--") : std::string(1, c);
}

std::string HubCache::snapshot(std::string_view commit) const {
  return fmt::format("{}/snapshots/{}", folder_, commit);
}
std::string HubCache::blob(std::string_view hash) const { return fmt::format("{}/blobs/{}", folder_, hash); }

std::optional<std::string> HubCache::Commit(std::string_view revision) const {
  if (!IsSafeFileName(revision)) return std::nullopt;
  std::string commit = FirstWord(fmt::format("{}/refs/{}", folder_, revision));
  if (commit.empty()) commit = revision;
  std::error_code ignored;
  if (!IsSafeFileName(commit) || !fs::is_directory(snapshot(commit), ignored)) return std::nullopt;
  return commit;
}

absl::Status HubCache::SetCommit(std::string_view revision, std::string_view commit) const {
  if (revision == commit) return absl::OkStatus();
  const std::string path = fmt::format("{}/refs/{}", folder_, revision);
  std::error_code error;
  fs::create_directories(fs::path(path).parent_path(), error);
  MOED_RETURN_IF_ERROR(ToStatus(error, path));
  std::ofstream file(path, std::ios::trunc);
  file << commit;
  file.flush();
  return file.good() ? absl::OkStatus() : DataLoss("{}: cannot write", path);
}

absl::Status HubCache::Prepare(std::string_view commit) const {
  std::error_code error;
  fs::create_directories(folder_ + "/blobs", error);
  MOED_RETURN_IF_ERROR(ToStatus(error, folder_));
  fs::create_directories(snapshot(commit), error);
  return ToStatus(error, snapshot(commit));
}

absl::Status HubCache::Link(std::string_view commit, std::string_view file, std::string_view hash) const {
  const fs::path link = fs::path(snapshot(commit)) / file;
  std::error_code error;
  fs::create_directories(link.parent_path(), error);
  MOED_RETURN_IF_ERROR(ToStatus(error, link));
  const fs::path target = fs::relative(blob(hash), link.parent_path(), error);
  MOED_RETURN_IF_ERROR(ToStatus(error, link));
  if (fs::is_symlink(link, error) && fs::read_symlink(link, error) == target) return absl::OkStatus();
  fs::remove(link, error);
  fs::create_symlink(target, link, error);
  return ToStatus(error, link);
}

}  // namespace moed
