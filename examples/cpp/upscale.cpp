// upscale BUNDLE IN.png OUT.png: one picture through a bundle, in twenty lines.
#include <cstdio>
#include <opencv2/imgcodecs.hpp>

#include "genedge/error.hpp"
#include "genedge/session.hpp"

int main(int count, char** values) {
  if (count != 4) return genedge::kUsage;
  try {
    const cv::Mat picture = cv::imread(values[2]);
    const auto bundle = genedge::open_bundle(values[1]);
    const auto session = genedge::open_stage(bundle, genedge::choose(bundle), picture.size());
    cv::imwrite(values[3], session->infer(picture));
    return genedge::kOk;
  } catch (const genedge::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return error.exit_code();
  }
}
