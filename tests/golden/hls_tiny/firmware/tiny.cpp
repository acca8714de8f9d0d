// tiny: one function per layer, and the top function that calls them.
#include "tiny.h"
#include "fixed_point.h"
#include "weights/hidden.h"
#include "weights/logits.h"

// The labels name the loops in the reports of the tools; for g++ they are unused.
#ifndef __SYNTHESIS__
#pragma GCC diagnostic ignored "-Wunused-label"
#endif

// Layer hidden: [3] -> [4]
static void hidden(const x_t x[3], relu_t relu[4]) {
#pragma HLS INLINE

    // relu [4]: linear, add, quantize; 0..56 * 2^-2
    relu_loop: for (int i = 0; i < 4; i++) {
#pragma HLS UNROLL
        hidden_matmul_t hidden_matmul = 0;
        hidden_matmul_k: for (int k = 0; k < 3; k++) {
#pragma HLS UNROLL
            hidden_matmul += x[k] * from_raw<hidden_weights_t>(hidden_weights[i][k]);
        }
        const hidden_sum_t hidden_sum = hidden_matmul + from_raw<hidden_bias_t>(hidden_bias[i]);
        relu[i] = ap_ufixed<6,4,AP_RND_CONV,AP_SAT>(hidden_sum);
    }
}

// Layer logits: [4] -> [2]
static void logits(const relu_t relu[4], y_t y[2]) {
#pragma HLS INLINE

    // square [2]: linear, quantize, lookup; 0..72 * 2^-3
    y_loop: for (int i = 0; i < 2; i++) {
#pragma HLS UNROLL
        logits_matmul_t logits_matmul = 0;
        logits_matmul_k: for (int k = 0; k < 4; k++) {
#pragma HLS UNROLL
            logits_matmul += relu[k] * from_raw<logits_weights_t>(logits_weights[i][k]);
        }
        const narrow_t narrow =
                quantized<AP_RND, AP_SAT, narrow_t, 13>(logits_matmul, 4, narrow_lo[i], narrow_hi[i], 0);
        y[i] = from_raw<y_t>(square_table[(raw_of<32>(narrow) + 4).to_int()]);
    }
}

void tiny(const x_t x[3], y_t y[2]) {
#pragma HLS ARRAY_PARTITION variable=x complete dim=0
#pragma HLS INTERFACE ap_vld port=x
#pragma HLS ARRAY_PARTITION variable=y complete dim=0
#pragma HLS INTERFACE ap_vld port=y
#pragma HLS PIPELINE II=1
    relu_t relu[4];
#pragma HLS ARRAY_PARTITION variable=relu complete dim=0

    hidden(x, relu);

    logits(relu, y);
}
