// Test bench of tiny: feeds tb_input.dat, and compares every bit of the results with tb_output.dat.
// Both files hold one event per line, the raw integers of all ports in order.
#include <cstdio>
#include <fstream>
#include <string>

#include "../firmware/tiny.h"
#include "../firmware/fixed_point.h"

static bool same(const char *name, const long event, const int i, const long long found, const long long wanted) {
    if (found != wanted) {
        std::printf("FAIL: event %ld, %s[%d] is %lld, not %lld (bits as an integer)\n", event, name, i, found, wanted);
    }
    return found == wanted;
}

// The tools run this program in a folder of their own, with the files beside it; `make` runs it in the project.
static bool open_vectors(std::ifstream &file, const std::string &name) {
    file.open(name.c_str());
    if (!file.is_open()) {
        file.clear();
        file.open(("tb/" + name).c_str());
    }
    if (!file.is_open()) {
        std::printf("FAIL: cannot open %s\n", name.c_str());
    }
    return file.is_open();
}

int main() {
    std::ifstream source, golden;
    if (!open_vectors(source, "tb_input.dat") || !open_vectors(golden, "tb_output.dat")) {
        return 2;
    }
    static x_t x[3]; // x [3]
    static y_t y[2]; // y [2]
    long events = 0;
    long long n = 0;
    while (source >> n) {
        for (int i = 0; i < 3; i++) {
            if (i > 0) {
                source >> n;
            }
            x[i] = from_raw<x_t>(n * (1LL << 0));
        }
        tiny(x, y);
        for (int i = 0; i < 2; i++) {
            if (!(golden >> n)) {
                std::printf("FAIL: tb_output.dat ends at event %ld\n", events);
                return 2;
            }
            const long long found = raw_of<64>(y[i]).to_int64();
            if (!same("y", events, i, found, n * (1LL << 0))) {
                return 1;
            }
        }
        events++;
    }
    if (events == 0 || (golden >> n)) {
        std::printf("FAIL: tb_input.dat and tb_output.dat must hold the same number of events, and at least one\n");
        return 2;
    }
    std::printf("PASS: %ld events, every bit equal\n", events);
    return 0;
}
