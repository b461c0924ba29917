// Engines that are kept: Python's key and files, and when a kept one is not used. No GPU: the plans are made up.
#include <cstdlib>
#include <filesystem>

#include "check.hpp"
#include "engine_cache.hpp"

namespace fs = std::filesystem;

namespace {

genedge::EngineIdentity identity() {
  genedge::EngineIdentity one;
  one.tensorrt = "10.3.0.26";
  one.gpu = "Orin \"Nano\" é";
  one.sm = "87";
  one.driver = 12;
  one.model = std::string(64, 'a');
  one.variant = "fp32";
  one.precision = "fp16";
  one.inputs["frame"] = {genedge::Shape{1, 360, 640, 3}, genedge::Shape{1, 360, 640, 3}, genedge::Shape{1, 720, 1280, 3}};
  one.workspace_mib = 512;
  return one;
}

}  // namespace

int main() {
  // what json.dumps(Identity(...).to_dict(), sort_keys=True) gives, and its SHA-256
  CHECK_EQUAL(identity().json(), R"({"builder": 1, "dla_core": null, "driver": 12, "gpu": "Orin \"Nano\" \u00e9", "hardware_co)"
              R"(mpatible": false, "inputs": {"frame": [[1, 360, 640, 3], [1, 360, 640, 3], [1, 720, 1280, )"
              R"(3]]}, "model": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "optimi)"
              R"(zation_level": null, "precision": "fp16", "sm": "87", "tensorrt": "10.3.0.26", "variant": )"
              R"("fp32", "version_compatible": false, "workspace_mib": 512})");
  CHECK_EQUAL(identity().key(), "6da9df7ec8de93db01bb22546884f910a810a77f084f898dac28620086b94e9b");

  std::string name = (fs::temp_directory_path() / "genedge-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) return 2;
  const fs::path root = name, folder = root / "net" / "engines";
  setenv("XDG_CACHE_HOME", (root / "cache").c_str(), 1);
  int built = 0;
  std::string told;
  const auto engine = [&](const genedge::EngineIdentity& which, bool refused = false) {
    told.clear();
    return genedge::engine_for(
        which, folder, 1000, [&](const fs::path&) { return "plan " + std::to_string(++built); },
        [&](const std::string& line) { told += line + "\n"; }, refused);
  };
  CHECK_EQUAL(engine(identity()), "plan 1");
  CHECK_EQUAL(told, "building the TensorRT fp16 engine for 640x360\n");
  CHECK_EQUAL(engine(identity()), "plan 1");  // kept
  CHECK_EQUAL(told, "");
  auto other = identity();
  other.sm = "90";
  CHECK_EQUAL(engine(other), "plan 2");
  CHECK_EQUAL(engine(identity(), true), "plan 3");  // TensorRT has refused the kept one
  CHECK_EQUAL(engine(identity()), "plan 3");

  const fs::path plan = folder / (identity().key() + ".plan"), side = folder / (identity().key() + ".json");
  std::ofstream(plan) << "another";
  CHECK_EQUAL(engine(identity()), "plan 4");
  CHECK(told.find("the kept engine is damaged") == 0);
  fs::remove(side);
  CHECK_EQUAL(engine(identity()), "plan 5");
  CHECK(told.find("was not written to its end") != std::string::npos);
  std::ofstream(side) << "[[[";
  CHECK_EQUAL(engine(identity()), "plan 6");
  CHECK(told.find("is damaged") != std::string::npos);

  // beside a manifest it is a bundle's, which can come from anywhere: only what this user has built is used
  std::ofstream(root / "net" / "manifest.json") << "{}";
  CHECK_EQUAL(engine(identity()), "plan 6");
  fs::remove(root / "cache" / "genedge" / "engines" / "built.jsonl");
  CHECK_EQUAL(engine(identity()), "plan 7");
  CHECK(told.find("none that this user has built") != std::string::npos);
  fs::remove_all(root);
  return result();
}
