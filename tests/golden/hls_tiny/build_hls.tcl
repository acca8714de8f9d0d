# Builds tiny with Vitis HLS or Vivado HLS:
#   vitis_hls -f build_hls.tcl "csim=0 cosim=1"
#   vivado_hls -f build_hls.tcl
#   vitis-run --mode hls --tcl build_hls.tcl
# The words in quotes switch steps; their defaults are here.
array set steps {csim 1 csynth 1 cosim 0 export 0}

if {[info exists argv]} {
    foreach step [array names steps] {
        regexp "$step=(\[01\])" $argv -> steps($step)
    }
}

set cflags "-std=c++11"

open_project -reset tiny_prj
set_top tiny
add_files firmware/tiny.cpp -cflags $cflags
add_files -tb tb/tiny_tb.cpp -cflags $cflags
add_files -tb tb/tb_input.dat
add_files -tb tb/tb_output.dat

# Vivado HLS does not know flow targets.
if {[catch {open_solution -reset -flow_target vivado solution1}]} {
    open_solution -reset solution1
}
set_part xcvu13p-flga2577-2-e
create_clock -period 5 -name default

if {$steps(csim)} {
    csim_design
}
if {$steps(csynth)} {
    csynth_design
}
if {$steps(cosim)} {
    cosim_design -rtl verilog
}
if {$steps(export)} {
    export_design -format ip_catalog
}
exit
