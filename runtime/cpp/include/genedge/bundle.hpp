// Open a bundle and hand out its files, each checked against its digest.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "genedge/manifest.hpp"

namespace genedge {

/// A bundle's folder and its checked manifest.
struct Bundle {
  std::filesystem::path folder;
  Manifest manifest;

  /// The bytes of a file of the bundle. Throws ManifestError where the digest differs.
  std::string read(const FileRef& reference) const;
  /// The ONNX file of a variant, digest checked, without references to other files.
  std::string read_model(const std::string& variant) const;
  /// Pair `index` of the manifest's golden frames: an input and PyTorch's output, both CV_8UC3 BGR.
  std::pair<cv::Mat, cv::Mat> golden(std::size_t index) const;
  /// variant -> digest of the file whose figures are in parity.json; empty without one.
  std::map<std::string, std::string> measured_digests() const;
};

/// Open a bundle by folder, or by name in ./bundles and the folders of $GENEDGE_BUNDLES.
///
/// Throws ManifestError for a broken manifest and Error where there is none.
Bundle open_bundle(const std::string& place);

/// Throws ManifestError where `model` is no ONNX file or refers to another file.
void refuse_external_data(std::string_view model, const std::string& name);

/// SHA-256 as 64 lower-case hexadecimal digits.
std::string sha256_hex(std::string_view data);

}  // namespace genedge
