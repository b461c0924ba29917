// Sessions of every valid manifest, on the null engine: which frames, codes and states they take. What an engine
// computes from them is compared with Python's in test_genedge_run.py.
#include <filesystem>
#include <opencv2/imgproc.hpp>

#include "check.hpp"
#include "genedge/error.hpp"
#include "genedge/session.hpp"

namespace fs = std::filesystem;

namespace {

const genedge::Choice kNull = {"null", "fp32", "fp32", ""};

genedge::Bundle bundle_of(const fs::path& file) {
  return {file.parent_path(), genedge::parse_manifest(read_file(file.string()))};
}

cv::Mat noise(cv::Size size) {
  cv::Mat image(size, CV_8UC3);
  cv::randu(image, 0, 256);
  return image;
}

bool is_enlarged(const cv::Mat& image, const cv::Mat& frame, int scale) {
  cv::Mat wanted;
  cv::resize(frame, wanted, frame.size() * scale, 0, 0, cv::INTER_NEAREST);
  return image.size() == wanted.size() && cv::norm(image, wanted, cv::NORM_INF) == 0;
}

/// Whether the manifest says what its states and codes take; others can be read, but not run.
bool is_described(const genedge::Manifest& manifest) {
  for (const auto& port : manifest.inputs) {
    if ((port.role == "state" && !port.source) || (port.role == "code" && !port.code)) return false;
  }
  return true;
}

void check_manifest(const fs::path& file) {
  const auto bundle = bundle_of(file);
  const auto& geometry = bundle.manifest.geometry;
  if (bundle.manifest.task == "face-detection") return;
  if (!is_described(bundle.manifest)) {
    CHECK_THROWS(genedge::Error, "build the bundle again", genedge::open_session(bundle, kNull));
    return;
  }
  for (const cv::Size size : {cv::Size(64, 48), cv::Size(33, 21)}) {
    if (geometry.fixed_size && !geometry.tileable && !geometry.resizes) continue;
    const auto session = genedge::open_stage(bundle, kNull, size);
    session->warm_up(size);
    const std::vector<cv::Mat> frames = {noise(size), noise(size), noise(size)};
    const auto images = session->infer(frames);
    for (std::size_t i = 0; i < frames.size(); ++i) {
      const bool exact = geometry.resizes ? images[i].size() == size * geometry.scale
                                          : is_enlarged(images[i], frames[i], geometry.scale);
      check(exact, file.filename().string() + ": the image is not the frame enlarged", __FILE__, __LINE__);
    }
    for (const auto& [name, code] : session->codes()) {
      session->set_code(name, code.default_value);
      CHECK_THROWS(genedge::UsageError, "numbers, not", session->set_code(name, {}));
    }
    CHECK_THROWS(genedge::UsageError, "no code called 'unheard'", session->set_code("unheard", {1}));
    session->set_codes({});
    session->reset();
    // several under way, and their results later
    std::vector<cv::Mat> outs(3);
    std::vector<genedge::Pending> pending;
    for (int i = 0; i < std::min(3, session->in_flight()); ++i) {
      pending.push_back(session->submit(frames[static_cast<std::size_t>(i)], outs[static_cast<std::size_t>(i)]));
    }
    for (const auto& each : pending) each();
    CHECK_EQUAL(outs[0].size(), size * geometry.scale);
  }
}

void check_refusals(const fs::path& folder) {
  const auto bundle = bundle_of(folder / "super-resolution-any-size.json");
  const auto session = genedge::open_session(bundle, kNull);
  cv::Mat out;
  CHECK_THROWS(std::invalid_argument, "CV_8UC3", session->submit(cv::Mat(), out));
  CHECK_THROWS(std::invalid_argument, "no gaps", session->submit(noise({64, 64}).colRange(3, 30), out));
  CHECK_THROWS(genedge::UsageError, "unknown backend 'abacus'", genedge::choose(bundle, "abacus"));
  CHECK_THROWS(genedge::UsageError, "`python -m runtime` only", genedge::choose(bundle, "onnxruntime"));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const fs::path folder = argv[1];
  for (const auto& entry : fs::directory_iterator(folder)) check_manifest(entry.path());
  check_refusals(folder);
  return result();
}
