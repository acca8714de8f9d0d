// image: a process per layer, line buffer and copy, and the top function that connects them with FIFOs.
#include "image.h"
#include "fixed_point.h"
#include "weights/conv.h"
#include "weights/logits.h"

// The labels name the loops in the reports of the tools; for g++ they are unused.
#ifndef __SYNTHESIS__
#pragma GCC diagnostic ignored "-Wunused-label"
#endif

// x: the same words for 2 readers
// 20 words of 2 -> 20 words of 2; -8..7 * 2^-2
static void x_copies(
        hls::stream<Word<x_t, 2> > &x,
        hls::stream<Word<x_t, 2> > &x_1,
        hls::stream<Word<x_t, 2> > &x_2) {
    x_copies_words: for (int word = 0; word < 20; word++) {
#pragma HLS PIPELINE II=1 style=flp
        const Word<x_t, 2> x_word = x.read();
        x_1.write(x_word);
        x_2.write(x_word);
    }
}

// window: line buffer
// 20 words of 2 -> 20 words of 18; -8..7 * 2^-2
static void window(hls::stream<Word<x_t, 2> > &x_1, hls::stream<Word<window_out_t, 18> > &window_out) {
    Word<x_t, 2> lines[2][7]; // the last rows
#pragma HLS AGGREGATE variable=lines
#pragma HLS ARRAY_PARTITION variable=lines complete dim=1
    Word<x_t, 2> taps[3][3]; // what lies under the kernel
#pragma HLS ARRAY_PARTITION variable=taps complete dim=0
    window_rows: for (int row = 0; row < 6; row++) {
        window_columns: for (int column = 0; column < 7; column++) {
#pragma HLS PIPELINE II=1 style=flp
            Word<x_t, 2> x_1_word;
#pragma HLS AGGREGATE variable=x_1_word
            window_padding_lanes: for (int lane = 0; lane < 2; lane++) {
#pragma HLS UNROLL
                x_1_word.at[lane] = 0;
            }
            if (row >= 1 && row < 5 && column >= 1 && column < 6) {
                x_1_word = x_1.read();
            }
            window_left: for (int row_of = 0; row_of < 3; row_of++) {
#pragma HLS UNROLL
                window_left_by: for (int column_of = 0; column_of < 2; column_of++) {
#pragma HLS UNROLL
                    taps[row_of][column_of] = taps[row_of][column_of + 1];
                }
            }
            window_older: for (int row_of = 0; row_of < 2; row_of++) {
#pragma HLS UNROLL
                taps[row_of][2] = lines[row_of][column];
                lines[row_of][column] = row_of < 1 ? lines[row_of + 1][column] : x_1_word;
            }
            taps[2][2] = x_1_word;
            if (row >= 2 && column >= 2) {
                Word<window_out_t, 18> window_out_word;
#pragma HLS AGGREGATE variable=window_out_word
                window_i0: for (int i0 = 0; i0 < 3; i0++) {
#pragma HLS UNROLL
                    window_i1: for (int i1 = 0; i1 < 3; i1++) {
#pragma HLS UNROLL
                        window_lanes: for (int lane = 0; lane < 2; lane++) {
#pragma HLS UNROLL
                            window_out_word.at[i0 * 6 + i1 * 2 + lane] = taps[i0][i1].at[lane];
                        }
                    }
                }
                window_out.write(window_out_word);
            }
        }
    }
}

// Layer conv: linear, add, quantize; resource, 6 multipliers, each used 6 times a row
// 20 words of 18 and 20 words of 2 -> 20 words of 2; 0..15 * 2^-1
static void conv(
        hls::stream<Word<window_out_t, 18> > &window_out,
        hls::stream<Word<x_t, 2> > &x_2,
        hls::stream<Word<relu_t, 2> > &relu) {
#pragma HLS ARRAY_RESHAPE variable=conv_weights complete dim=2
#pragma HLS BIND_STORAGE variable=conv_weights type=rom_1p impl=lutram
    Word<window_out_t, 18> window_out_word;
#pragma HLS AGGREGATE variable=window_out_word
    Word<x_t, 2> x_2_word;
#pragma HLS AGGREGATE variable=x_2_word
    Word<relu_t, 2> relu_word;
#pragma HLS AGGREGATE variable=relu_word
    conv_matmul_t totals[2];
#pragma HLS ARRAY_PARTITION variable=totals complete dim=0
    conv_rows: for (int row = 0; row < 20; row++) {
        conv_steps: for (int step = 0; step < 6; step++) {
#pragma HLS PIPELINE II=1 style=flp
            if (step == 0) {
                window_out_word = window_out.read();
                x_2_word = x_2.read();
            }
            conv_lanes: for (int lane = 0; lane < 2; lane++) {
#pragma HLS UNROLL
                if (step == 0) {
                    totals[lane] = 0;
                }
                conv_k: for (int k = 0; k < 3; k++) {
#pragma HLS UNROLL
                    totals[lane] += window_out_word.at[step * 3 + k] * from_raw<conv_weights_t>(conv_weights[step][lane * 3 + k]);
                }
                if (step == 5) {
                    const conv_matmul_t conv_matmul = totals[lane];
                    const residual_t residual = conv_matmul + x_2_word.at[lane];
                    relu_word.at[lane] = ap_ufixed<4,3,AP_RND,AP_SAT>(residual);
                }
            }
            if (step == 5) {
                relu.write(relu_word);
            }
        }
    }
}

// Layer largest: reduce_max
// 20 words of 2 -> 1 words of 2; 0..15 * 2^-1
static void largest_2(hls::stream<Word<relu_t, 2> > &relu, hls::stream<Word<largest_out_t, 2> > &largest_out) {
    Word<largest_out_t, 2> largest_out_word;
#pragma HLS AGGREGATE variable=largest_out_word
    relu_t totals[2];
#pragma HLS ARRAY_PARTITION variable=totals complete dim=0
    largest_2_k: for (int k = 0; k < 20; k++) {
#pragma HLS PIPELINE II=1 style=flp
        const Word<relu_t, 2> relu_word = relu.read();
        largest_2_lanes: for (int lane = 0; lane < 2; lane++) {
#pragma HLS UNROLL
            if (k == 0) {
                totals[lane] = relu_word.at[lane];
            } else {
                totals[lane] = relu_word.at[lane] > totals[lane] ? relu_word.at[lane] : totals[lane];
            }
            if (k == 19) {
                largest_out_word.at[lane] = totals[lane];
            }
        }
        if (k == 19) {
            largest_out.write(largest_out_word);
        }
    }
}

// Layer logits: linear; latency
// 1 words of 2 -> 1 words of 3; -30..75 * 2^-1
static void logits(hls::stream<Word<largest_out_t, 2> > &largest_out, hls::stream<Word<y_t, 3> > &y) {
#pragma HLS ARRAY_PARTITION variable=logits_weights complete dim=0
    Word<largest_out_t, 2> largest_out_word;
#pragma HLS AGGREGATE variable=largest_out_word
    Word<y_t, 3> y_word;
#pragma HLS AGGREGATE variable=y_word
    y_t totals[3];
#pragma HLS ARRAY_PARTITION variable=totals complete dim=0
#pragma HLS PIPELINE II=1 style=flp
    largest_out_word = largest_out.read();
    logits_lanes: for (int lane = 0; lane < 3; lane++) {
#pragma HLS UNROLL
        totals[lane] = 0;
        logits_k: for (int k = 0; k < 2; k++) {
#pragma HLS UNROLL
            totals[lane] += largest_out_word.at[k] * from_raw<logits_weights_t>(logits_weights[0][lane * 2 + k]);
        }
        y_word.at[lane] = totals[lane];
    }
    y.write(y_word);
}

void image(hls::stream<Word<x_t, 2> > &x, hls::stream<Word<y_t, 3> > &y) {
#pragma HLS INTERFACE axis port=x
#pragma HLS INTERFACE axis port=y
#pragma HLS DATAFLOW
    hls::stream<Word<x_t, 2> > x_1("x_1"); // 20 words
#pragma HLS STREAM variable=x_1 depth=2
    hls::stream<Word<x_t, 2> > x_2("x_2"); // 20 words
#pragma HLS STREAM variable=x_2 depth=7
    x_copies(x, x_1, x_2);
    hls::stream<Word<window_out_t, 18> > window_out("window_out"); // 20 words
#pragma HLS STREAM variable=window_out depth=2
    window(x_1, window_out);
    hls::stream<Word<relu_t, 2> > relu("relu"); // 20 words
#pragma HLS STREAM variable=relu depth=2
    conv(window_out, x_2, relu);
    hls::stream<Word<largest_out_t, 2> > largest_out("largest_out"); // 1 words
#pragma HLS STREAM variable=largest_out depth=2
    largest_2(relu, largest_out);
    logits(largest_out, y);
}
