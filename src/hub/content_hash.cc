#include "hub/content_hash.h"

#include <openssl/evp.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <vector>

namespace moed {

absl::StatusOr<std::string> HashFile(const std::string& path, ContentHash kind) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return NotFound("{}: {}", path, error.message());
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  bool ok = context != nullptr &&
            EVP_DigestInit_ex(context.get(), kind == ContentHash::kSha256 ? EVP_sha256() : EVP_sha1(), nullptr) == 1;
  if (kind == ContentHash::kGitBlob) {
    const std::string prefix = fmt::format("blob {}", size);
    ok = ok && EVP_DigestUpdate(context.get(), prefix.c_str(), prefix.size() + 1) == 1;
  }
  std::ifstream file(path, std::ios::binary);
  std::vector<char> chunk(size_t{1} << 20);
  while (ok && file) {
    file.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
    ok = EVP_DigestUpdate(context.get(), chunk.data(), static_cast<size_t>(file.gcount())) == 1;
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  ok = ok && file.eof() && EVP_DigestFinal_ex(context.get(), digest, &length) == 1;
  if (!ok) return DataLoss("{}: cannot be read", path);
  std::string hex;
  for (unsigned int i = 0; i < length; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

}  // namespace moed
