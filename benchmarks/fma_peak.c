/* Peak multiply-adds per second of one core, measured: 16 independent chains of 64-byte vectors, which covers
 * a latency of 4 cycles at up to 4 vector instructions a cycle. Usage: fma_peak SECONDS; prints GMAC/s (float32). */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef float vector __attribute__((vector_size(64)));
enum { kLanes = 16, kChains = 16, kSteps = 20000 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

int main(int argc, char** argv) {
    const double seconds = argc > 1 ? atof(argv[1]) : 0.5;
    vector chain[kChains], factor, addend;
    for (int lane = 0; lane < kLanes; ++lane) {
        factor[lane] = 0.999f;
        addend[lane] = 0.001f;
    }
    for (int c = 0; c < kChains; ++c) chain[c] = addend * (float)c;
    double best = 0.0;
    const double end = now() + seconds;
    do {
        const double start = now();
        for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 16
            for (int c = 0; c < kChains; ++c) chain[c] = chain[c] * factor + addend;
        }
        const double rate = (double)kSteps * kChains * kLanes / (now() - start) * 1e-9;
        if (rate > best) best = rate;
    } while (now() < end);
    float sum = 0.0f;
    for (int c = 0; c < kChains; ++c) sum += chain[c][0];
    printf("%.3f\n", best);
    return sum == 12345.0f; /* the result is used, so that the loop is not removed */
}
