// The names that the Hub gives to contents: hashes that a download is checked by.
#ifndef MOED_HUB_CONTENT_HASH_H_
#define MOED_HUB_CONTENT_HASH_H_

#include <string>
#include <string_view>

#include "base/status.h"

namespace moed {

enum class ContentHash {
  kSha256,   // of large files: 64 hexadecimal digits
  kGitBlob,  // of small ones: SHA-1 of "blob SIZE\0" and the contents, 40 digits
};

// The hash of a file in lower-case hexadecimal digits. NOT_FOUND, or DATA_LOSS when it cannot be read.
absl::StatusOr<std::string> HashFile(const std::string& path, ContentHash kind);

}  // namespace moed

#endif  // MOED_HUB_CONTENT_HASH_H_
