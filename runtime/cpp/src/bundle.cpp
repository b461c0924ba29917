#include "genedge/bundle.hpp"

#include <cstdlib>
#include <fstream>
#include <system_error>

#include "genedge/error.hpp"
#include "json_reader.hpp"
#include "parts.hpp"
#include "text.hpp"

namespace fs = std::filesystem;

namespace genedge {
namespace {

constexpr std::uintmax_t kMaxFileBytes = std::uintmax_t{1} << 31;  // the most that protobuf, and so ONNX, can hold
constexpr const char* kParityName = "parity.json";

/// The path of a file inside the bundle. Throws ManifestError where it would lie outside.
fs::path member(const fs::path& folder, const std::string& name) {
  if (!is_plain_path(name)) throw ManifestError(in_quotes(name) + " is not a plain path inside the bundle");
  const fs::path path = folder / name;
  std::error_code failure;
  const fs::path real = fs::weakly_canonical(path, failure);
  const fs::path root = failure ? fs::path() : fs::weakly_canonical(folder, failure);
  const fs::path inside = failure ? fs::path() : real.lexically_relative(root);
  if (failure || inside.empty() || *inside.begin() == "..") {
    throw ManifestError(in_quotes(name) + " leads out of the bundle " + folder.string());
  }
  return path;
}

/// The bytes of a regular file, nothing where there is none.
std::optional<std::string> bytes_of_file(const fs::path& path) {
  std::error_code failure;
  const auto status = fs::status(path, failure);
  if (status.type() == fs::file_type::not_found) return std::nullopt;
  if (failure) throw ManifestError(path.string() + ": " + failure.message());
  // a pipe would keep the reader waiting for ever
  if (!fs::is_regular_file(status)) throw ManifestError(path.string() + ": not a file");
  const auto size = fs::file_size(path, failure);
  if (failure) throw ManifestError(path.string() + ": " + failure.message());
  if (size > kMaxFileBytes) {
    throw ManifestError(path.string() + ": more than " + std::to_string(kMaxFileBytes) + " bytes");
  }
  std::ifstream file(path, std::ios::binary);
  std::string data(size, '\0');
  file.read(data.data(), static_cast<std::streamsize>(size));
  if (!file || file.peek() != std::ifstream::traits_type::eof()) {
    throw ManifestError(path.string() + ": cannot be read");
  }
  return data;
}

cv::Mat picture(const Bundle& bundle, const FileRef& reference) {
  const std::string data = bundle.read(reference);
  cv::Mat image = picture_parts().decode(data.data(), data.size(), false);
  if (image.empty()) throw ManifestError((bundle.folder / reference.file).string() + ": not a picture");
  return image;
}

fs::path found(const std::string& place) {
  std::vector<fs::path> folders = {place};
  if (!place.empty() && place.find('/') == std::string::npos) {
    folders.push_back(fs::path("bundles") / place);
    const char* more = std::getenv("GENEDGE_BUNDLES");
    for (const auto& folder : split(more == nullptr ? "" : more, ':')) {
      if (!folder.empty()) folders.push_back(fs::path(folder) / place);
    }
  }
  std::error_code failure;
  std::vector<std::string> tried;
  for (const auto& folder : folders) {
    if (fs::is_regular_file(folder / kManifestName, failure)) return folder;
    tried.push_back(folder.string());
  }
  if (fs::is_directory(place, failure)) {
    throw Error(place + ": holds no " + kManifestName + ", so it is no bundle");
  }
  throw Error("no bundle " + place + " (looked for " + joined(tried) + "): make it with `python -m export build`");
}

}  // namespace

std::string Bundle::read(const FileRef& reference) const {
  const fs::path path = member(folder, reference.file);
  auto data = bytes_of_file(path);
  if (!data) throw ManifestError(path.string() + ": the manifest names this file, but it is missing");
  const std::string digest = sha256_hex(*data);
  if (digest != reference.sha256) {
    throw ManifestError(path.string() + ": sha256 is " + digest.substr(0, 12) + "…, the manifest says " +
                        reference.sha256.substr(0, 12) +
                        "…: the file was changed or damaged; build the bundle again");
  }
  return std::move(*data);
}

std::string Bundle::read_model(const std::string& variant) const {
  const Artifact* artifact = manifest.artifact(variant);
  if (artifact == nullptr) {
    throw Error(manifest.name + " has no " + variant + " variant, only " + manifest.variants());
  }
  std::string model = read(artifact->file);
  refuse_external_data(model, artifact->file.file);
  return model;
}

std::pair<cv::Mat, cv::Mat> Bundle::golden(std::size_t index) const {
  const Golden& pair = manifest.golden.at(index);
  cv::Mat frame = picture(*this, pair.input), output = picture(*this, pair.output);
  if (output.size() != frame.size() * manifest.geometry.scale) {
    throw ManifestError((folder / pair.output.file).string() + ": its size is not " +
                        std::to_string(manifest.geometry.scale) + " times the input's");
  }
  return {frame, output};
}

std::map<std::string, std::string> Bundle::measured_digests() const {
  const fs::path path = member(folder, kParityName);
  const auto text = bytes_of_file(path);
  std::map<std::string, std::string> digests;
  if (!text) return digests;
  Json content;
  try {
    content = parse_json(*text);
  } catch (const std::invalid_argument& error) {
    throw ManifestError(path.string() + ": not valid JSON (" + error.what() + ")");
  }
  if (!content.is(Json::Kind::object)) throw ManifestError(path.string() + ": must be an object");
  const Json* results = content.find("results");
  for (const Json& entry : results == nullptr ? std::vector<Json>() : results->items) {
    const Json *variant = entry.find("variant"), *digest = entry.find("sha256");
    if (variant != nullptr) digests[variant->text] = digest == nullptr ? "" : digest->text;
  }
  return digests;
}

Bundle open_bundle(const std::string& place) {
  const fs::path folder = found(place), path = folder / kManifestName;
  std::error_code failure;
  if (fs::file_size(path, failure) > kMaxManifestBytes) {
    throw ManifestError(path.string() + ": more than " + std::to_string(kMaxManifestBytes) + " bytes");
  }
  try {
    return {folder, parse_manifest(bytes_of_file(path).value_or(""))};
  } catch (const ManifestError& error) {
    throw ManifestError(path.string() + ": " + error.what());
  }
}

}  // namespace genedge
