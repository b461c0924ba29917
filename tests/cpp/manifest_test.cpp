// The same golden and hostile manifests that pytest reads, with the same verdicts and the same words.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "check.hpp"
#include "genedge/error.hpp"
#include "genedge/manifest.hpp"

namespace fs = std::filesystem;

namespace {

std::size_t files_in(const fs::path& folder) {
  std::size_t count = 0;
  for (const auto& entry : fs::directory_iterator(folder)) count += entry.path().filename() != "EXPECTED.json";
  return count;
}

void check_valid(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    try {
      genedge::parse_manifest(read_file(entry.path().string()));
    } catch (const genedge::Error& error) {
      check(false, entry.path().filename().string() + ": " + error.what(), __FILE__, __LINE__);
    }
  }
  const auto manifest = genedge::parse_manifest(read_file((folder / "recurrent-with-sources.json").string()));
  CHECK(!manifest.inputs_of("state").empty());
  CHECK(manifest.inputs_of("state")[0]->source.has_value());
  CHECK_EQUAL(manifest.frame().role, "frame");
  const auto resized = genedge::parse_manifest(read_file((folder / "resized-with-two-images.json").string()));
  CHECK(resized.geometry.resizes);
  CHECK_EQUAL(resized.images().size(), 2u);
  CHECK_EQUAL(&resized.image(), resized.images()[0]);
  CHECK_THROWS(genedge::UsageError, "gives no image 'other'", resized.image("other"));
  const auto detector = genedge::parse_manifest(read_file((folder / "face-detection.json").string()));
  CHECK_THROWS(genedge::UsageError, "is a face detector", detector.image());
}

void check_invalid(const fs::path& folder) {
  const auto expected = nlohmann::json::parse(read_file((folder / "EXPECTED.json").string()));
  CHECK_EQUAL(expected.size(), files_in(folder));
  for (const auto& [name, words] : expected.items()) {
    const std::string text = read_file((folder / name).string());
    CHECK_THROWS(genedge::ManifestError, words.get<std::string>(), genedge::parse_manifest(text));
  }
}

/// What the files cannot hold, since it is about the reader's own limits.
void check_limits(const std::string& golden) {
  const std::string large = golden + std::string(genedge::kMaxManifestBytes, ' ');
  CHECK_THROWS(genedge::ManifestError, "bytes, more than the 1048576 allowed", genedge::parse_manifest(large));
  CHECK_THROWS(genedge::ManifestError, "not valid JSON", genedge::parse_manifest(""));
  CHECK_THROWS(genedge::ManifestError, "nested too deep", genedge::parse_manifest(std::string(100'000, '[')));
  CHECK_THROWS(genedge::ManifestError, "not valid JSON", genedge::parse_manifest(golden + "{}"));
  // beyond 64 bits, and only where nobody looks: no number, but JSON all the same
  const std::string more = "{\"more\": 123456789012345678901234567890, " + golden.substr(golden.find('{') + 1);
  genedge::parse_manifest(more);
  const auto with = [&](const std::string& value) { return "{\"more\": " + value + golden.substr(golden.find(',')); };
  genedge::parse_manifest("{\"more\": -1" + std::string(400, '0') + ", " + golden.substr(golden.find('{') + 1));
  CHECK_THROWS(genedge::ManifestError, "not valid JSON", genedge::parse_manifest(with(std::string(5000, '1'))));
  CHECK_THROWS(genedge::ManifestError, "not valid JSON", genedge::parse_manifest(with("1" + std::string(400, '0') + ".5")));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const fs::path folder = argv[1];
  check_valid(folder / "valid");
  check_invalid(folder / "invalid");
  check_limits(read_file((folder / "valid" / "translation.json").string()));
  return result();
}
