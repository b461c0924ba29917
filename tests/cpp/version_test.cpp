// The library states the version of pyproject.toml, three numbers.
#include <cstdio>
#include <cstring>

int main(int argc, char** argv) {
  int major = -1;
  int minor = -1;
  int patch = -1;
  const bool three = std::sscanf(GENEDGE_VERSION, "%d.%d.%d", &major, &minor, &patch) == 3;
  const bool same = argc == 2 && std::strcmp(argv[1], GENEDGE_VERSION) == 0;
  if (!three || !same) {
    std::fprintf(stderr, "GENEDGE_VERSION is \"%s\"\n", GENEDGE_VERSION);
    return 1;
  }
  return 0;
}
