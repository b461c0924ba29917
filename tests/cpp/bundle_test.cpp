// Bundles in a temporary folder: digests, paths that lead out of it, files that are none, other files of a model.
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>

#include "check.hpp"
#include "genedge/bundle.hpp"
#include "genedge/error.hpp"

namespace fs = std::filesystem;
using genedge::ManifestError;

namespace {

void write(const fs::path& path, const std::string& data) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << data;
}

/// A protobuf field of bytes, shorter than 128.
std::string field(int number, const std::string& data) {
  return std::string(1, static_cast<char>(number << 3 | 2)) + static_cast<char>(data.size()) + data;
}

void check_digests() {
  CHECK_EQUAL(genedge::sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK_EQUAL(genedge::sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK_EQUAL(genedge::sha256_hex(std::string(1'000'000, 'a')),
              "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  // 55 and 56 bytes: with and without room for the length in the last block
  CHECK_EQUAL(genedge::sha256_hex(std::string(55, 'a')),
              "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
  CHECK_EQUAL(genedge::sha256_hex(std::string(56, 'a')),
              "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a");
}

void check_models() {
  genedge::refuse_external_data(field(7, field(5, field(8, "weight"))), "model.onnx");
  const std::string external = field(7, field(5, field(13, field(1, "location"))));
  CHECK_THROWS(ManifestError, "keeps tensors in another file", genedge::refuse_external_data(external, "model.onnx"));
  const std::string location = field(7, field(1, field(5, field(5, std::string("\x70\x01", 2)))));
  CHECK_THROWS(ManifestError, "keeps tensors in another file", genedge::refuse_external_data(location, "model.onnx"));
  CHECK_THROWS(ManifestError, "it is empty", genedge::refuse_external_data("", "model.onnx"));
  CHECK_THROWS(ManifestError, "it is cut off", genedge::refuse_external_data("\x3A\x7F", "model.onnx"));
  CHECK_THROWS(ManifestError, "unknown wire type 3", genedge::refuse_external_data("\x3B", "model.onnx"));
  CHECK_THROWS(ManifestError, "a number is too long",
               genedge::refuse_external_data(std::string(11, '\xFF'), "model.onnx"));
  std::string deep = field(8, "weight");
  for (int i = 0; i < 12; ++i) deep = field(7, field(1, field(5, field(6, deep)))).substr(2);  // graphs in attributes
  CHECK_THROWS(ManifestError, "", genedge::refuse_external_data(std::string(64, '\x3A') + deep, "model.onnx"));
}

void check_bundle(const fs::path& root) {
  const std::string model = field(7, field(5, field(8, "weight")));
  const fs::path folder = root / "net";
  const std::string manifest = R"({"format": 1, "name": "net", "task": "translation", "generator": "tiny",
    "weights": {"sha256": ")" + std::string(64, '0') + R"(", "licence": "none", "trained_on": "nothing"},
    "inputs": [{"name": "frame", "role": "frame", "dtype": "uint8", "shape": ["n", "h", "w", 3]}],
    "outputs": [{"name": "image", "role": "image", "dtype": "uint8", "shape": ["n", "sh", "sw", 3]}],
    "geometry": {"scale": 1, "minimum": 1, "multiple": 1, "halo": 0, "tileable": true, "fixed_size": null},
    "artifacts": {"fp32": {"file": "model.onnx", "sha256": ")" + genedge::sha256_hex(model) + R"("}},
    "limits": {}, "golden": []})";
  write(folder / "manifest.json", manifest);
  const auto bundle = genedge::open_bundle(folder.string());
  CHECK_THROWS(ManifestError, "the manifest names this file, but it is missing", bundle.read_model("fp32"));
  write(folder / "model.onnx", model);
  CHECK_EQUAL(bundle.read_model("fp32").size(), model.size());
  CHECK_THROWS(genedge::Error, "net has no int8 variant, only fp32", bundle.read_model("int8"));
  write(folder / "model.onnx", model + "!");
  CHECK_THROWS(ManifestError, "the file was changed or damaged", bundle.read_model("fp32"));
  CHECK(bundle.measured_digests().empty());
  write(folder / "parity.json", R"({"results": [{"variant": "fp32", "sha256": "ab"}, 7]})");
  CHECK_EQUAL(bundle.measured_digests().at("fp32"), "ab");
  write(folder / "parity.json", "[]");
  CHECK_THROWS(ManifestError, "must be an object", bundle.measured_digests());

  const genedge::FileRef out{"leads-out", std::string(64, '0')};
  fs::create_symlink(root / "elsewhere", folder / "leads-out");
  write(root / "elsewhere", "secret");
  CHECK_THROWS(ManifestError, "leads out of the bundle", bundle.read(out));
  const genedge::FileRef pipe{"pipe", std::string(64, '0')};
  CHECK_EQUAL(mkfifo((folder / "pipe").c_str(), 0600), 0);
  CHECK_THROWS(ManifestError, "not a file", bundle.read(pipe));
  CHECK_THROWS(ManifestError, "not a plain path", bundle.read({"../elsewhere", std::string(64, '0')}));

  setenv("GENEDGE_BUNDLES", root.c_str(), 1);
  CHECK_EQUAL(genedge::open_bundle("net").manifest.name, "net");
  fs::create_directories(root / "empty");
  CHECK_THROWS(genedge::Error, "holds no manifest.json", genedge::open_bundle((root / "empty").string()));
  CHECK_THROWS(genedge::Error, "no bundle nowhere (looked for nowhere, bundles/nowhere, ",
               genedge::open_bundle("nowhere"));
}

}  // namespace

int main() {
  std::string name = (fs::temp_directory_path() / "genedge-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) return 2;
  check_digests();
  check_models();
  check_bundle(name);
  fs::remove_all(name);
  return result();
}
